"""Kills a run of two processes again and again, and holds what is left to a run that nothing disturbed.

pytest -m slow -s tests/train/test_kill_soak.py       50 kills; prints what it counted
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from toy_run import ToyRun

from train.checkpoints import find_damage

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(3600)]

NewToy = Callable[[str], ToyRun]
STEPS = 100
SETTINGS = (
    f"loop.steps={STEPS}", "loop.save_every=4", "loop.log_every=1", "loop.validate_every=25",
    "task.seconds_per_batch=0.003", "resume=auto",
)  # fmt: skip


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_whole_at_random_moments_two_processes_lose_nothing(toy: NewToy, kills: int) -> None:
    whole = toy("whole")
    assert whole.start_ranks(2, *SETTINGS) == [0, 0], whole.log.read_text()
    chance = random.Random(kills)
    count: Counter[str] = Counter()
    run = toy("run_0")
    while count["kills"] < kills:
        processes = run.spawn_ranks(2, *SETTINGS)
        count["starts"] += 1
        wait_for_a_moment(run, processes, chance, in_a_save=count["starts"] % 2 == 0)
        for process in chance.sample(processes, 2):
            process.kill()
        codes = run.join(processes)
        if codes == [0, 0]:
            count["finished runs"] += 1
            assert_same_runs(run, whole)
            run = toy(f"run_{count['finished runs']}")
            continue
        assert set(codes) == {-signal.SIGKILL}, run.log.read_text()
        count["kills"] += 1
        count["in a save"] += any(checkpoints(run).glob("*.tmp"))
        for published in checkpoints(run).glob("step_????????"):
            assert find_damage(published) is None
            count["published checkpoints read"] += 1
    assert run.start_ranks(2, *SETTINGS) == [0, 0], run.log.read_text()
    assert_same_runs(run, whole)
    count["finished runs"] += 1
    assert "damaged" not in run.log.read_text()
    print("\n" + ", ".join(f"{name}: {number}" for name, number in count.items()))


def wait_for_a_moment(
    run: ToyRun, processes: list[BaseProcess], chance: random.Random, in_a_save: bool
) -> None:
    """Returns a random number of steps after the start, or then once a checkpoint is being written."""
    alive = partial(all_alive, processes, time.monotonic() + 120)
    before = run.log.stat().st_size if run.log.exists() else 0
    while alive() and not (run.log.exists() and run.log.stat().st_size > before):
        time.sleep(0.002)
    lines = num_lines(run.metrics) + chance.randint(0, 14)
    while alive() and num_lines(run.metrics) < lines:
        time.sleep(0.002)
    if not in_a_save:
        time.sleep(chance.uniform(0, 0.02))
        return
    while alive() and not any(checkpoints(run).glob("*.tmp")):
        pass
    time.sleep(chance.uniform(0, 0.004))


def all_alive(processes: list[BaseProcess], deadline: float) -> bool:
    assert time.monotonic() < deadline
    return all(process.is_alive() for process in processes)


def assert_same_runs(run: ToyRun, whole: ToyRun) -> None:
    assert run.records() == whole.records()
    assert [record["step"] for record in run.records()] == list(range(1, STEPS + 1))
    assert run.records("validation") == whole.records("validation")
    left, right = run.checkpoint(STEPS), whole.checkpoint(STEPS)
    assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def checkpoints(run: ToyRun) -> Path:
    return run.folder / "checkpoints"


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
