from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
import torch
from toy_run import ToyRun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

NewToy = Callable[[str], ToyRun]
SLOW = pytest.mark.slow
# Without dropout, which differs between ranks, any number of ranks learns the same.
EXACT = ("task.dropout=0",)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """The plain engine's run, with two of its steps left out for NaN."""
    run = ToyRun(tmp_path_factory.mktemp("plain"), "plain")
    assert run.start(*EXACT, "task.nan_batches=[24, 26]") == 0
    return run


def assert_close_runs(run: ToyRun, reference: ToyRun) -> None:
    for record, expected in zip(run.records(), reference.records(), strict=True):
        assert record["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert record["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
        assert record["skipped"] == expected["skipped"]
    for record, expected in zip(
        run.records("validation"), reference.records("validation"), strict=True
    ):
        assert record["scalars"] == pytest.approx(expected["scalars"], rel=1e-5)
    torch.testing.assert_close(run.checkpoint(24), reference.checkpoint(24), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.weights(), reference.weights(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", [pytest.param(s, marks=SLOW) for s in (0, 1, 2)] + [3])
def test_one_process_learns_what_the_plain_engine_learns(
    toy: NewToy, plain: ToyRun, stage: int
) -> None:
    run = toy(f"one_{stage}")
    codes = run.start_ranks(
        1,
        *EXACT,
        "task.nan_batches=[24, 26]",
        "engine.kind=deepspeed",
        f"engine.zero_stage={stage}",
    )
    assert codes == [0], run.log.read_text()
    assert_close_runs(run, plain)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=SLOW), 1, pytest.param(2, marks=SLOW), 3])
def test_two_processes_learn_what_one_learns_and_skip_together(
    toy: NewToy, plain: ToyRun, stage: int
) -> None:
    """The NaN is in the first rank's share of the batch alone."""
    run = toy(f"two_{stage}")
    codes = run.start_ranks(2, *EXACT, "task.nan_batches=[24, 26]", f"engine.zero_stage={stage}")
    assert codes == [0, 0], run.log.read_text()
    assert_close_runs(run, plain)


def test_a_run_goes_on_with_another_number_of_ranks_and_another_stage(
    toy: NewToy, plain: ToyRun
) -> None:
    """2 -> 1 -> 2 processes: parameters bitwise, losses within 1e-6, every sample once and in order."""
    run = toy("moving")
    trace = run.root / "trace"
    common = (
        *EXACT, "task.nan_batches=[24, 26]", "resume=auto", "loop.keep_checkpoints=9",
        "loop.save_every=1", f"task.trace={trace}",
    )  # fmt: skip
    assert run.start_ranks(2, *common, "task.signal_at_batch=23") == [75, 75]

    # Steps 13 and 14 are left out, so their checkpoints are what was loaded, saved again.
    assert run.start_ranks(1, *common, "loop.max_minutes=1e-9") == [75]
    assert run.start_ranks(2, *common, "loop.max_minutes=1e-9", "engine.zero_stage=3") == [75, 75]
    saved = run.checkpoint(12)
    for step in (13, 14):
        loaded = run.checkpoint(step)
        assert loaded.keys() == saved.keys()
        for name, value in saved.items():
            assert torch.equal(loaded[name], value), (step, name)

    assert run.start_ranks(1, *common, "task.signal_at_batch=37") == [75]
    assert run.start_ranks(2, *common, "engine.zero_stage=2") == [0, 0], run.log.read_text()
    torch.testing.assert_close(run.checkpoint(24), plain.checkpoint(24), rtol=1e-4, atol=1e-6)
    for record, expected in zip(run.records(), plain.records(), strict=True):
        assert record["losses"] == pytest.approx(expected["losses"], rel=1e-6, abs=1e-6)

    taken: list[int] = []
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    for position, parts in itertools.groupby(sorted(lines), key=lambda line: line[0]):
        assert sorted(sample for _, part in parts for sample in part) == list(range(8))
        taken.append(position)
    assert taken == list(range(48))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_a_stopped_run_of_two_processes_is_bitwise_the_uninterrupted_one(
    toy: NewToy, stage: int
) -> None:
    whole, halves = toy("whole"), toy("halves")
    settings = [f"engine.zero_stage={stage}", "resume=auto"]
    assert whole.start_ranks(2, *settings) == [0, 0]
    assert halves.start_ranks(2, *settings, "task.signal_at_batch=19") == [75, 75]
    assert halves.start_ranks(2, *settings) == [0, 0]
    assert halves.records() == whole.records()
    left, right = halves.checkpoint(24), whole.checkpoint(24)
    assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(
    ("stage", "offload"),
    [
        pytest.param(1, "optimizer", marks=SLOW),
        pytest.param(2, "optimizer", marks=SLOW),
        pytest.param(3, "optimizer", marks=SLOW),
        (3, "weights"),
    ],
)
def test_offloaded_to_host_memory_it_learns_the_same(
    toy: NewToy, plain: ToyRun, stage: int, offload: str
) -> None:
    """Stopped and resumed on the way, so that what lies in host memory is saved and loaded too."""
    run = toy(f"offload_{stage}")
    settings = (
        *EXACT, "task.nan_batches=[24, 26]", "resume=auto", f"engine.zero_stage={stage}",
        f"engine.offload={offload}",
    )  # fmt: skip
    codes = run.start_ranks(2, *settings, "task.signal_at_batch=19")
    assert codes == [75, 75], run.log.read_text()
    assert run.start_ranks(2, *settings) == [0, 0], run.log.read_text()
    assert_close_runs(run, plain)


@pytest.mark.slow
def test_bf16_is_autocast_here_too(toy: NewToy) -> None:
    run, reference = toy("bf16"), toy("bf16_plain")
    assert run.start_ranks(2, *EXACT, "engine.precision=bf16", "engine.zero_stage=2") == [0, 0]
    assert reference.start(*EXACT, "engine.precision=bf16") == 0
    assert all(value.dtype == torch.float32 for value in run.checkpoint(24).values())
    for record, expected in zip(run.records(), reference.records(), strict=True):
        assert record["losses"] == pytest.approx(expected["losses"], rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["plain", "deepspeed"])
def test_a_gpu_learns_what_the_cpu_learns(toy: NewToy, kind: str) -> None:
    run, reference = toy("gpu"), toy("cpu")
    settings = (*EXACT, f"engine.kind={kind}")
    assert run.start_ranks(1, *settings, "engine.device=cuda") == [0], run.log.read_text()
    assert reference.start_ranks(1, *settings, "engine.device=cpu") == [0]
    torch.testing.assert_close(run.weights(), reference.weights(), rtol=1e-3, atol=1e-4)
