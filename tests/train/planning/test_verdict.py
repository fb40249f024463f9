"""Which changes are proposed: the fewest, the mildest of each kind, and only such as suffice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from train.planning.cluster import GIB, Cluster
from train.planning.verdict import Setup, changes_that_fit, memory_of
from train.planning.zero_memory import Footprint

SETUP = Setup(
    gpus=4, clips=6, parts=1, zero_stage=0, checkpointing=False, grouped=None, average=True
)
CLUSTER = Cluster(nodes=1, gpus_per_node=4, reserve=0.0)
SWITCH = "task.gradient_checkpointing"


def measure(setup: Setup) -> Footprint:
    """4 GiB of weights; 8 GiB of activations a clip, 2 with checkpointing, 3 less where the loss is grouped."""
    clip = (2 if setup.checkpointing else 8) - (3 if setup.grouped else 0)
    activations = clip * setup.clips * GIB
    return Footprint(
        trained=GIB,
        frozen=0,
        average=setup.average,
        batch=0,
        peak=activations,
        peak_beside_gradients=activations,
        step_peak=0,
        parts=setup.parts,
    )


def proposed(setup: Setup, gigabytes: float) -> list[str]:
    cluster = replace(CLUSTER, gpu_memory=float(gigabytes) * GIB)
    changes = changes_that_fit(setup, cluster, measure, SWITCH)
    for change in changes:
        assert memory_of(change.setup, measure) == change.memory
        assert change.memory.total <= cluster.usable
        assert change.setup.clips_a_step == setup.clips_a_step
    return [" ".join(change.words) for change in changes]


def test_what_each_alone_would_do() -> None:
    """64 GiB are in use: 48 of activations, 16 of weights, averages and states."""
    assert memory_of(SETUP, measure).total == 64 * GIB
    assert proposed(SETUP, 60) == [
        "task.gradient_checkpointing=true",
        "engine.zero_stage=3",
        "task.batch_size=12 loop.accumulate=2",
        "loop.ema_decay=null",
        "--nodes 1 --gpus 8",
    ]


def test_only_the_mildest_of_a_kind() -> None:
    assert proposed(SETUP, 41) == [
        "task.gradient_checkpointing=true",
        "task.batch_size=8 loop.accumulate=3",
        "--nodes 1 --gpus 8",
    ]


def test_several_changes_where_one_is_not_enough() -> None:
    found = proposed(SETUP, 23)
    # Where parts are added up, whole gradients wait for them: 4 GiB here.
    assert "task.gradient_checkpointing=true task.batch_size=4 loop.accumulate=6" in found
    assert "task.gradient_checkpointing=true --nodes 1 --gpus 8" in found
    assert proposed(SETUP, 5) == []


def test_host_memory_is_proposed_where_the_stage_has_it() -> None:
    """Weights, their average and states of stage 3 on 4 GPUs: 5 GiB, of which the states are 3."""
    sharded = replace(SETUP, zero_stage=3, clips=1)
    total = memory_of(sharded, measure).total / GIB
    assert "engine.offload=optimizer" in proposed(sharded, total - 1)
    found = proposed(sharded, total - 4.5)
    assert "engine.offload=weights" in found and "engine.offload=optimizer" not in found
    assert all("offload" not in words for words in proposed(replace(SETUP, clips=1), 20))


def test_one_gpu_offloads_by_deepspeed() -> None:
    alone = replace(SETUP, gpus=1, zero_stage=1, clips=1)
    assert alone.plain and alone.stage == 0
    assert "engine.offload=optimizer" in proposed(alone, 20)
    assert replace(alone, offload="optimizer").stage == 1


def test_switches_that_are_on_or_missing_are_not_proposed() -> None:
    on = replace(SETUP, checkpointing=True, zero_stage=3, average=False)
    assert all("checkpointing" not in words for words in proposed(on, 8))
    grouped = replace(SETUP, grouped=False)
    assert "task.loss.perceptual_at_once=4" in proposed(grouped, 60)
    alone = replace(SETUP, gpus=1, clips=24)
    assert all("zero_stage" not in words for words in proposed(alone, 180))


@pytest.mark.parametrize("clips", [1, 2, 6, 7])
def test_clips_are_shared_out_evenly(clips: int) -> None:
    setup = replace(SETUP, clips=clips)
    for words in proposed(setup, 17 + 8 * (clips - 1)):
        if words.startswith("task.batch_size="):
            batch, parts = (int(word.split("=")[1]) for word in words.split())
            assert batch * parts == 4 * clips and batch % 4 == 0
