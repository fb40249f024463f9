"""Each task that we offer, killed in two processes and resumed, with loader workers of their own."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from small_tasks import make_folder, task_run

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, KILLS = 16, 2
SETTINGS = (
    f"loop.steps={STEPS}", "loop.save_every=3", "loop.log_every=1", "loop.validate_every=8",
    "task.num_workers=1", "engine.threads=1", "resume=auto",
)  # fmt: skip


@pytest.mark.parametrize("task", ["cogvideox", "reconstruction", "video", "video_base"])
def test_a_task_that_is_killed_goes_on_bit_for_bit(tmp_path: Path, task: str) -> None:
    folder = make_folder(tmp_path / "folder")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, run = (task_run(tmp_path / name, folder, task) for name in ("whole", "killed"))
    assert whole.start_ranks(2, *SETTINGS) == [0, 0], whole.log.read_text()

    chance = random.Random(task)
    for kill in range(KILLS):
        last = chance.randint(4 + 5 * kill, 8 + 5 * kill)
        processes = run.spawn_ranks(2, *SETTINGS)
        deadline = time.monotonic() + 180
        while num_lines(run.metrics) < last:
            alive = all(process.is_alive() for process in processes)
            assert alive and time.monotonic() < deadline, run.log.read_text()
            time.sleep(0.005)
        for process in processes:
            process.kill()
        assert run.join(processes) == [-signal.SIGKILL] * 2, run.log.read_text()
    assert run.start_ranks(2, *SETTINGS) == [0, 0], run.log.read_text()

    assert run.records() == whole.records()
    assert run.records("validation") == whole.records("validation")
    left, right = run.checkpoint(STEPS), whole.checkpoint(STEPS)
    assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
