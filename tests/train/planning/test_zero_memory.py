"""ZeRO's bytes against the paper's formulas, and against what DeepSpeed holds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zero_bytes

from train.planning import zero_memory
from train.planning.zero_memory import FLOAT, REDUCE_BUCKET, Footprint, gpu_memory, network_bytes

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = 7_500_000_000
"""As in the paper's figure 1."""


def footprint(**changes: int | bool) -> Footprint:
    nothing = Footprint(
        trained=WEIGHTS, frozen=0, average=False, batch=0, peak=0, peak_beside_gradients=0, step_peak=0
    )  # fmt: skip
    return Footprint(**(vars(nothing) | changes))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_shares_are_the_papers(stage: int) -> None:
    """Bytes a weight on 64 GPUs, float32 throughout: what figure 1 divides by N is divided by N here."""
    memory = gpu_memory(footprint(), stage, 64)
    weights, states = memory.weights / WEIGHTS, memory.states / WEIGHTS
    assert weights == pytest.approx(4 / 64 if stage == 3 else 4, rel=1e-3)
    # Adam's averages, and from stage 1 on the copy of the weights that the optimizer steps.
    assert states == pytest.approx((8 + 4) / 64 if stage else 8, rel=1e-3)
    gradients = memory.gradients / WEIGHTS
    assert gradients == pytest.approx({0: 4, 1: 4 + 4 / 64, 2: 4 / 64, 3: 4 / 64}[stage], rel=1e-3)


def test_activations_and_gradients_meet_where_they_do() -> None:
    """In stages 0 and 1 gradients grow while activations go; where parts are added up they are all there."""
    passing = {"trained": 1000, "peak": 10**6, "peak_beside_gradients": 999_000}
    assert gpu_memory(footprint(**passing), 0, 2).activations == 999_000
    assert gpu_memory(footprint(**passing), 0, 2).gradients == 1000
    assert gpu_memory(footprint(**passing, parts=2), 0, 2).gradients == FLOAT * 1000
    assert gpu_memory(footprint(**passing, parts=2), 2, 2).gradients == FLOAT * 500


def test_what_is_offloaded_leaves_the_gpu() -> None:
    with_states, without = (gpu_memory(footprint(), 2, 8, offload=o) for o in ("none", "optimizer"))
    assert without.states == 0
    assert without.total < with_states.total - with_states.states
    assert without.host == pytest.approx(7 * FLOAT * WEIGHTS / 8, rel=1e-3)
    averaged = gpu_memory(footprint(average=True), 3, 8, offload="weights")
    assert averaged.weights == averaged.average == averaged.states == 0
    assert averaged.host == pytest.approx(9 * FLOAT * WEIGHTS / 8, rel=1e-3)
    with pytest.raises(AssertionError, match="stage 0"):
        gpu_memory(footprint(), 0, 8, offload="optimizer")
    with pytest.raises(AssertionError, match="only stage 3"):
        gpu_memory(footprint(), 2, 8, offload="weights")


def test_one_process_has_no_buckets() -> None:
    assert gpu_memory(footprint(), 0, 1, plain=True).buffers == 0
    assert gpu_memory(footprint(trained=1000), 2, 8).buffers == FLOAT * REDUCE_BUCKET


def test_network_volumes_are_the_papers() -> None:
    """ZeRO, sec. 7: twice the weights up to stage 2, three times in stage 3."""
    for stage, times in ((0, 2), (1, 2), (2, 2), (3, 3)):
        assert network_bytes(WEIGHTS, stage, 10**6) == pytest.approx(times * 4 * WEIGHTS, rel=1e-5)
    assert network_bytes(WEIGHTS, 0, 1) == 0


def test_the_default_buckets_are_deepspeeds() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = DeepSpeedZeroConfig()
    assert config.reduce_bucket_size == REDUCE_BUCKET
    assert config.max_live_parameters == zero_memory.LIVE_WEIGHTS
    assert config.prefetch_bucket_size == zero_memory.PREFETCHED_WEIGHTS


def held_by_deepspeed(stage: int, offload: str) -> list[dict[str, int]]:
    """What each of two processes on this machine reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", str(Path(zero_bytes.__file__)), str(stage), offload]
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


SLOW = pytest.mark.slow


@pytest.mark.distributed
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("stage", "offload"),
    [
        pytest.param(0, "none", marks=SLOW),
        pytest.param(1, "none", marks=SLOW),
        (2, "none"),
        pytest.param(3, "none", marks=SLOW),
        pytest.param(1, "optimizer", marks=SLOW),
        pytest.param(2, "optimizer", marks=SLOW),
        pytest.param(3, "optimizer", marks=SLOW),
    ],
)
def test_bytes_are_those_that_deepspeed_holds(
    stage: int, offload: zero_memory.Offload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose activations are next to nothing, on a CPU, where all memory is the host's."""
    monkeypatch.setattr(zero_memory, "deepspeed_settings", zero_bytes.settings_with_small_buckets)
    trained = zero_bytes.DEPTH * (zero_bytes.WIDTH**2 + zero_bytes.WIDTH)
    # On a CPU AdamW makes two temporary tensors of what it steps: one weight after another, or the flat one.
    stepped = trained if stage else zero_bytes.WIDTH**2
    model = footprint(trained=trained, step_peak=2 * FLOAT * stepped)
    expected = gpu_memory(model, stage, 2, offload=offload)
    stays = expected.weights + expected.states
    if stage == 3:  # gradients and their bucket are never given back
        stays += -(-FLOAT * trained // 2) + FLOAT * zero_bytes.BUCKET
    if offload == "optimizer":
        stays += expected.host - FLOAT * trained  # without the two temporary ones of a half
    for found in held_by_deepspeed(stage, offload):
        assert found["stays"] == pytest.approx(stays, rel=0.15 if expected.host else 0.01)
        assert found["peak"] == pytest.approx(expected.total + expected.host, rel=0.15)
