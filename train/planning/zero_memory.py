"""What one GPU holds in a training step, by ZeRO stage, with and without the optimizer in host memory.

How weights, gradients and optimizer states are shared among N GPUs is the ZeRO paper's (Rajbhandari et al., arXiv
1910.02054, sec. 5 and fig. 1): stage 1 partitions the optimizer's states, 2 the gradients too, 3 the weights too.
DeepSpeed's own estimator (`estimate_zero2_model_states_mem_needs` and the one of stage 3) counts 18 bytes a weight
for half-precision models; ours stay in float32 and autocast makes their copies, so the bytes are others here. What
DeepSpeed 0.19.8 adds is read from its `zero/stage_1_and_2.py` and `zero/stage3.py`: a second copy of a rank's weights
in stages 1 and 2, a bucket of fixed size in which gradients are reduced, and whole weights that stage 3 has gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from train.deepspeed_engine import deepspeed_settings
from train.engine import EngineConfig, StepRule

STAGES = (0, 1, 2, 3)
FLOAT = 4
"""Bytes of a float32, which weights, gradients, states and averages are."""
REDUCE_BUCKET = 500_000_000
"""Values in the bucket where gradients are reduced, by DeepSpeed's default (`reduce_bucket_size`)."""
LIVE_WEIGHTS = 1_000_000_000
PREFETCHED_WEIGHTS = 50_000_000
"""Weights that stage 3 keeps gathered and gathers ahead (`stage3_max_live_parameters`, `_prefetch_bucket_size`)."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one GPU that don't depend on how the run is spread.

    trained: trainable weights, counted, not bytes. frozen: of frozen modules. average: whether weights are averaged.
    batch: its share of a batch. peak, peak_beside_gradients: of a rehearsal's forward and backward.
    step_peak: what the optimizer's step adds for all weights.
    parts: backward passes to a step.
    """

    trained: int
    frozen: int
    average: bool
    batch: int
    peak: int
    peak_beside_gradients: int
    step_peak: int
    parts: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at its fullest, by what they are for, and of the host memory that goes with it.

    activations: whatever the passes hold beside weights and gradients. gradients: those there at that moment.
    buffers: DeepSpeed's own.
    """

    weights: int
    frozen: int
    average: int
    states: int
    gradients: int
    activations: int
    buffers: int
    batch: int
    host: int = 0

    @property
    def total(self) -> int:
        return (
            self.weights + self.frozen + self.average + self.states
            + self.gradients + self.activations + self.buffers + self.batch
        )  # fmt: skip


def gpu_memory(
    footprint: Footprint, stage: int, gpus: int, *, offload: bool = False, plain: bool = False
) -> Memory:
    """The fuller of two moments: the passes' peak, and the optimizer's step.

    stage: ZeRO's, 0 to 3. offload: the optimizer and its states in host memory; stages 1 to 3 only.
    plain: the engine of one process, which is stage 0 without DeepSpeed.
    """
    assert stage or not offload, "stage 0 has nothing to offload"
    settings = _zero_settings(stage)
    bucket = 0 if plain else FLOAT * int(settings.get("reduce_bucket_size", REDUCE_BUCKET))
    found = [
        moment(footprint, stage, gpus, offload, bucket) for moment in (_passes, _optimizer_step)
    ]
    return max(found, key=lambda memory: memory.total)


def network_bytes(trained: int, stage: int, gpus: int) -> float:
    """What each GPU sends in a step: gradients and weights (ZeRO, sec. 7: two thirds of stage 3's below it)."""
    times = 3 if stage == 3 else 2
    return times * FLOAT * trained * (gpus - 1) / gpus


def _passes(
    footprint: Footprint, stage: int, gpus: int, offload: bool, bucket: int
) -> Memory:
    whole = FLOAT * footprint.trained
    share = whole // gpus
    beside = footprint.peak_beside_gradients
    if stage < 2:
        # Gradients come while activations go, unless those of an earlier part are there already.
        gradients = whole if footprint.parts > 1 else footprint.peak - beside
        buffers = bucket if stage else 0
    else:
        gradients, buffers = (0 if offload else share), bucket
    if stage == 3:
        buffers += FLOAT * min(footprint.trained, LIVE_WEIGHTS + PREFETCHED_WEIGHTS)
    return _memory(footprint, stage, gpus, offload, gradients, beside, buffers)


def _optimizer_step(
    footprint: Footprint, stage: int, gpus: int, offload: bool, bucket: int
) -> Memory:
    whole = FLOAT * footprint.trained
    share = whole // gpus
    if stage == 0:  # all gradients are there, and before the step buckets of them are reduced
        return _memory(
            footprint, stage, gpus, offload, whole, footprint.step_peak, min(bucket, whole)
        )
    if stage == 1:  # the same, and this rank's share of them is copied out of the bucket
        return _memory(footprint, stage, gpus, offload, whole + share, 0, bucket)
    # This rank's share of the gradients, and a flat copy of it for the optimizer.
    gradients, extra = (0, 0) if offload else (2 * share, footprint.step_peak // gpus)
    return _memory(footprint, stage, gpus, offload, gradients, extra, 0)


def _memory(
    footprint: Footprint,
    stage: int,
    gpus: int,
    offload: bool,
    gradients: int,
    activations: int,
    buffers: int,
) -> Memory:
    whole = FLOAT * footprint.trained
    share = whole // gpus
    states = 2 * share if stage else 2 * whole
    if stage in (1, 2):
        states += share  # a copy of the weights that the optimizer steps
    held = share if stage == 3 else whole
    # In host memory: weights, gradients, two states, and a buffer through which weights come back.
    host = 5 * share if offload else 0
    return Memory(
        weights=held,
        frozen=footprint.frozen,
        average=held if footprint.average else 0,
        states=0 if offload else states,
        gradients=gradients,
        activations=activations,
        buffers=buffers,
        batch=footprint.batch,
        host=host,
    )


def _zero_settings(stage: int) -> dict[str, Any]:
    config = EngineConfig(zero_stage=stage)  # type: ignore[arg-type]
    return deepspeed_settings(config, StepRule())["zero_optimization"]
