"""The gradient of two ranks is that of one process on the same global batch, for every task and ZeRO stage.

With beta1 = 0 AdamW's first average is the gradient of its first step, and a checkpoint holds it whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tasks import TASKS, make_folder, task_run
from torch import Tensor
from toy_run import TaskRun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

QUICK = {("linear", 0), ("reconstruction", 1), ("video_base", 2), ("video", 3)}
CASES = [
    pytest.param(task, stage, marks=() if (task, stage) in QUICK else pytest.mark.slow)
    for task in TASKS
    for stage in range(4)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("gradients"))


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The gradients of one process, by task; made when first asked for."""
    root = tmp_path_factory.mktemp("alone")

    class Gradients(dict[str, dict[str, Tensor]]):
        def __missing__(self, task: str) -> dict[str, Tensor]:
            run = task_run(root, folder, task)
            codes = run.join([run.spawn()])
            assert codes == [0], run.log.read_text()
            self[task] = gradient(run)
            return self[task]

    return Gradients()


@pytest.mark.parametrize(("task", "stage"), CASES)
def test_two_ranks_have_the_gradient_of_one_process(
    folder: Path, alone: dict[str, dict[str, Tensor]], tmp_path: Path, task: str, stage: int
) -> None:
    run = task_run(tmp_path, folder, task)
    codes = run.start_ranks(2, f"engine.zero_stage={stage}")
    assert codes == [0, 0], run.log.read_text()
    found, expected = gradient(run), alone[task]
    assert found.keys() == expected.keys() and len(found) > 3
    largest = max(float(value.norm()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        error = float((found[name] - value).norm())
        assert error <= 1e-5 * max(float(value.norm()), 1e-3 * largest), name
    if "gradient_checkpointing" in TASKS[task]:
        assert "activation checkpointing is on" in run.log.read_text()


def gradient(run: TaskRun) -> dict[str, Tensor]:
    saved = run.checkpoint(1)
    return {key: value for key, value in saved.items() if key.endswith("/exp_avg")}
