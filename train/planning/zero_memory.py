"""What one GPU holds in a training step, by ZeRO stage, with and without the optimizer in host memory.

How weights, gradients and optimizer states are shared among N GPUs is the ZeRO paper's (Rajbhandari et al., arXiv
1910.02054, sec. 5 and fig. 1): stage 1 partitions the optimizer's states, 2 the gradients too, 3 the weights too.
DeepSpeed's own estimators (`estimate_zero2_model_states_mem_needs` and the one of stage 3) count 18 bytes a weight
for models in half precision; ours stay in float32 and autocast makes their copies, so the bytes are others here.
What DeepSpeed 0.19.8 adds is read from its `zero/stage_1_and_2.py` and `zero/stage3.py`: a second copy of a rank's
weights for the optimizer, a bucket in which gradients are reduced, and whole weights that stage 3 has gathered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from train.deepspeed_engine import deepspeed_settings
from train.engine import EngineConfig, StepRule

STAGES = (0, 1, 2, 3)
Offload = Literal["none", "optimizer", "weights"]
"""As `EngineConfig.offload`."""
FLOAT = 4
"""Bytes of a float32, which weights, gradients, states and averages are."""
REDUCE_BUCKET = 500_000_000
"""Values in the bucket where gradients are reduced, by DeepSpeed's default (`reduce_bucket_size`)."""
LIVE_WEIGHTS = 1_000_000_000
PREFETCHED_WEIGHTS = 50_000_000
"""Weights that stage 3 keeps gathered and gathers ahead (`stage3_max_live_parameters`, `_prefetch_bucket_size`)."""


HOST_STEP = 2
"""Temporary tensors of what AdamW steps on a CPU: a root and its quotient."""


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
    footprint: Footprint, stage: int, gpus: int, *, offload: Offload = "none", plain: bool = False
) -> Memory:
    """The fullest of the moments of a step: the passes, the reduction of gradients, the optimizer's step.

    stage: ZeRO's, 0 to 3. offload: what is in host memory: the optimizer with its states (stages 1 to 3), or the
        weights and their average too (stage 3).
    plain: the engine of one process, which is stage 0 without DeepSpeed.
    """
    assert stage or offload == "none", "stage 0 has nothing to offload"
    assert stage == 3 or offload != "weights", "only stage 3 offloads weights"
    whole = FLOAT * footprint.trained
    share = -(-whole // gpus)
    held = share if stage == 3 else whole
    # Its share of the weights again, and of both averages; in stage 0 just the averages.
    states = 3 * share if stage else 2 * whole
    average = held if footprint.average else 0
    moments = _moments(footprint, stage, gpus, offload != "none")
    if plain:
        moments = [replace(moment, buffers=0) for moment in moments]
    fullest = max(moments, key=lambda moment: moment.total)
    # States and gradients, a buffer through which weights come back, and what AdamW makes on its way there.
    host = (5 + HOST_STEP) * share if offload != "none" else 0
    if offload == "weights":
        host += held + average
        held = average = 0
    return Memory(
        weights=held,
        frozen=footprint.frozen,
        average=average,
        states=states if offload == "none" else 0,
        gradients=fullest.gradients,
        activations=fullest.activations,
        buffers=fullest.buffers,
        batch=footprint.batch,
        host=host,
    )


def network_bytes(trained: int, stage: int, gpus: int) -> float:
    """What each GPU sends in a step: gradients and weights (ZeRO, sec. 7: two thirds of stage 3's below it)."""
    times = 3 if stage == 3 else 2
    return times * FLOAT * trained * (gpus - 1) / gpus


@dataclass(frozen=True)
class _Moment:
    """What changes within a step [bytes]."""

    gradients: int
    activations: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        return self.gradients + self.activations + self.buffers


def _moments(footprint: Footprint, stage: int, gpus: int, offload: bool) -> list[_Moment]:
    whole = FLOAT * footprint.trained
    share = -(-whole // gpus)
    beside = footprint.peak_beside_gradients
    # Gradients come while activations go, unless those of an earlier part are there already.
    meanwhile = whole if footprint.parts > 1 else footprint.peak - beside
    if stage == 0:
        copies = min(FLOAT * REDUCE_BUCKET, whole)
        return [
            _Moment(meanwhile, beside),
            _Moment(whole, 0, copies),
            _Moment(whole, footprint.step_peak),
        ]
    bucket = FLOAT * int(_zero_settings(stage).get("reduce_bucket_size", REDUCE_BUCKET))
    # The optimizer steps a flat copy of this rank's gradients.
    step = _Moment(2 * share, footprint.step_peak // gpus, bucket if stage == 3 else 0)
    kept = 0 if offload else share
    if stage == 1:
        found = [_Moment(meanwhile, beside, bucket), _Moment(whole + kept, 0, bucket)]
    elif stage == 2:
        found = [_Moment(kept, beside, bucket)]
    else:
        gathered = FLOAT * min(footprint.trained, LIVE_WEIGHTS + PREFETCHED_WEIGHTS)
        found = [_Moment(kept, beside, bucket + gathered)]
    return found if offload else [*found, step]


def _zero_settings(stage: int) -> dict[str, Any]:
    config = EngineConfig(zero_stage=stage)
    return deepspeed_settings(config, StepRule())["zero_optimization"]
