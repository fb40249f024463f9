"""What goes wrong on one of two ranks, and what all of them do."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from toy_run import ToyRun

from train.checkpoints import find_damage

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

NewToy = Callable[[str], ToyRun]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "factor", "left_out"),
    [
        ("spike", 10.01, True),
        pytest.param("spike", 9.99, False, marks=SLOW),
        pytest.param("nan", 1, True, marks=SLOW),
    ],
)
def test_what_is_bad_for_one_rank_is_left_out_by_all(
    toy: NewToy, kind: str, factor: float, left_out: bool
) -> None:
    """A rank's loss of a batch is judged by itself, by 10 times the recent median of the means over ranks.

    All losses are 1, and so is that median, but for one of step 23 (batches 44, 45), which has enough history.
    There rank 1's loss of batch 45 is `factor`; the mean over both ranks and batches, 3.25, would be no spike.
    """
    run = toy(kind)
    settings = ("loop.save_every=1", "loop.ema_decay=null", "task.unit_losses=true")
    fault = ("task.fault.rank=1", "task.fault.batches=[45]", f"task.fault.kind={kind}")
    codes = run.start_ranks(2, *settings, *fault, f"task.fault.factor={factor}")
    assert codes == [0, 0], run.log.read_text()
    assert ("left out step 23, for rank 1: loss" in run.log.read_text()) == left_out
    assert run.records()[-1]["skipped"] == left_out
    before, after, moved = (run.checkpoint(step) for step in (22, 23, 24))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before) == left_out
    assert not torch.equal(moved["model:layers.0.weight"], after["model:layers.0.weight"])


def test_bad_steps_in_a_row_end_the_run_with_every_ranks_batch(toy: NewToy) -> None:
    run = toy("row")
    fault = ("task.fault.kind=nan", "task.fault.rank=1", "task.fault.batches=[14, 17, 18]")
    codes = run.start_ranks(2, *fault, "guard.max_bad_steps=3", "loop.save_every=1")
    assert codes == [2, 2], run.log.read_text()
    log = run.log.read_text()
    assert "3 steps in a row were left out, the last being step 10, for rank 1: loss nan" in log
    dump = run.folder / "bad_step_00000010"
    batches = [load_file(dump / f"rank_{rank}.safetensors")["x"] for rank in range(2)]
    assert torch.isfinite(batches[0]).all() and torch.isnan(batches[1]).all()
    assert run.checkpoint_names()[-1] == "step_00000009"
    for step in (7, 8, 9):
        assert all(torch.isfinite(value).all() for value in run.checkpoint(step).values())


def test_a_rank_that_hangs_is_named_with_its_step(toy: NewToy) -> None:
    run = toy("hang")
    fault = ("task.fault.kind=hang", "task.fault.rank=1", "task.fault.batches=[15]")
    codes = run.start_ranks(2, *fault, "loop.hang_minutes=0.1")
    assert codes == [1, 1]
    log = run.log.read_text()
    assert log.count("error: nothing has moved for") == 1
    assert "rank 1 (process " in log and "hangs at step 8 (data), while the others wait at" in log
    assert "rank 1 stands here:" in log and "in strike" in log
    assert find_damage(run.folder / "checkpoints" / "step_00000006") is None


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_frozen_process_is_named_by_the_other_one(toy: NewToy, rank: int) -> None:
    """Frozen whole, so that it can't speak for itself; rank 0 also holds the ranks' meeting place."""
    run = toy("freeze")
    fault = ("task.fault.kind=freeze", f"task.fault.rank={rank}", "task.fault.batches=[15]")
    slow = ("task.seconds_per_batch=0.5", "loop.hang_minutes=0.1")
    processes = run.spawn_ranks(2, *fault, *slow)
    processes[1 - rank].join(150)
    processes[rank].kill()
    assert processes[1 - rank].exitcode == 1, run.log.read_text()
    log = run.log.read_text()
    if rank == 1:
        assert "rank 1 (process " in log and "hangs at step" in log
    else:
        assert "rank 1 waits at step 8 (" in log and "(rank 0, or the first node's" in log


def test_out_of_memory_tells_the_peak_and_three_changes(toy: NewToy) -> None:
    run = toy("memory")
    fault = ("task.fault.kind=memory", "task.fault.rank=1", "task.fault.batches=[15]")
    codes = run.start_ranks(2, *fault)
    assert codes[1] == 2 and codes[0] != 0
    errors = [line for line in run.log.read_text().splitlines() if line.startswith("error: rank 1")]
    assert len(errors) == 1
    assert "rank 1 is out of memory (it asked for 281474976710656 bytes more)" in errors[0]
    assert "GiB of host memory" in errors[0]
    for change in (
        "engine.zero_stage=2 with resume=auto; twice as many processes (4), each with half of the samples,",
        "engine.precision=bf16 in a new run",
    ):  # fmt: skip
        assert change in errors[0]
    assert run.checkpoint_names() == ["step_00000006"]
    assert find_damage(run.folder / "checkpoints" / "step_00000006") is None
    assert run.start_ranks(2, "resume=auto", "engine.zero_stage=2") == [0, 0], run.log.read_text()


def test_a_signal_to_one_of_two_ranks_stops_both_with_a_checkpoint(toy: NewToy) -> None:
    """As where a scheduler takes one node away."""
    run = toy("signal")
    processes = run.spawn_ranks(2, "loop.steps=100000", "task.seconds_per_batch=0.01")
    deadline = time.monotonic() + 100
    while not (run.metrics.exists() and run.metrics.stat().st_size):
        assert processes[0].is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].terminate()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [75, 75], run.log.read_text()
    newest = sorted((run.folder / "checkpoints").iterdir())[-1]
    assert find_damage(newest) is None


def test_damaged_samples_of_all_ranks_count_together(toy: NewToy) -> None:
    """Each rank has met three of them, two of which the other one met too."""
    run = toy("damaged")
    settings = ("task.damaged=[[1, 2, 3], [2, 3, 4]]", "loop.log_every=4")
    assert run.start_ranks(2, *settings, "task.max_damaged=4", "loop.steps=4") == [0, 0]
    assert run.records()[-1]["damaged"] == 4
    codes = run.start_ranks(2, *settings, "task.max_damaged=3", "resume=auto", "loop.steps=8")
    assert codes == [2, 2]
    assert "error: 4 samples are damaged: [1, 2, 3, 4]" in run.log.read_text()
