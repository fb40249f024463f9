"""Whether a recipe fits on a cluster, and if not, which changes would make it fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from models.perceptual import FRAMES_AT_ONCE
from train.planning.cluster import Cluster
from train.planning.zero_memory import Footprint, Memory, Offload, gpu_memory

MOST_CHANGES = 3
"""At once."""


@dataclass(frozen=True)
class Setup:
    """What of a recipe and a cluster decides about memory.

    clips: a step's clips that go through a GPU together. parts: how often that happens in a step.
    zero_stage, offload: as in the recipe; one GPU that offloads nothing has no DeepSpeed, unless `deepspeed`.
    checkpointing, grouped: of blocks, and whether the perceptual loss goes by groups of frames; None where the recipe
        has no such switch.
    """

    gpus: int
    clips: int
    parts: int
    zero_stage: int
    checkpointing: bool | None
    grouped: bool | None
    average: bool
    offload: Offload = "none"
    deepspeed: bool = False

    @property
    def plain(self) -> bool:
        """Whether the engine of one process runs it, without DeepSpeed."""
        return self.gpus == 1 and self.offload == "none" and not self.deepspeed

    @property
    def stage(self) -> int:
        return 0 if self.plain else self.zero_stage

    @property
    def clips_a_step(self) -> int:
        return self.gpus * self.clips * self.parts


@dataclass(frozen=True)
class Change:
    """A changed setup: what to write for it, and the memory of a GPU with it."""

    words: tuple[str, ...]
    setup: Setup
    memory: Memory


Measure = Callable[[Setup], Footprint]


def memory_of(setup: Setup, measure: Measure) -> Memory:
    """One GPU's memory. measure: gives the footprint of a setup."""
    return gpu_memory(
        measure(setup), setup.stage, setup.gpus, offload=setup.offload, plain=setup.plain
    )


def changes_that_fit(setup: Setup, cluster: Cluster, measure: Measure, switch: str) -> list[Change]:
    """The fewest changes at once after which a GPU's memory suffices; of the same kinds only the mildest.

    switch: the recipe's key for checkpointing. Empty where even the most changes don't suffice.
    """
    options = list(_options(setup, cluster, switch))
    for count in range(1, MOST_CHANGES + 1):
        found: dict[tuple[str, ...], Change] = {}
        for chosen in itertools.combinations(options, count):
            kinds = tuple(kind for kind, _, _ in chosen)
            if len(set(kinds)) < count or kinds in found:
                continue
            changed = setup
            for _, _, change in chosen:
                changed = change(changed)
            # Not where two changes share out the same clips.
            if changed.clips_a_step != setup.clips_a_step or not _is_possible(changed):
                continue
            memory = memory_of(changed, measure)
            if memory.total <= cluster.usable:
                found[kinds] = Change(tuple(text for _, text, _ in chosen), changed, memory)
        if found:
            return list(found.values())
    return []


def _options(
    setup: Setup, cluster: Cluster, switch: str
) -> Iterator[tuple[str, str, Callable[[Setup], Setup]]]:
    """Single changes: their kind, what to write, and the setup after it; of each kind from mild to strong."""
    if setup.checkpointing is False:
        yield "checkpointing", f"{switch}=true", lambda s: replace(s, checkpointing=True)
    if setup.grouped is False:
        text = f"task.loss.perceptual_at_once={FRAMES_AT_ONCE}"
        yield "groups", text, lambda s: replace(s, grouped=True)
    if not setup.plain:
        for stage in range(setup.stage + 1, 4):
            yield "stage", f"engine.zero_stage={stage}", _to_stage(stage)
    if setup.offload == "none":
        yield "offload", "engine.offload=optimizer", _to_offload("optimizer")
    if setup.offload != "weights":
        yield "offload", "engine.offload=weights", _to_offload("weights")
    for factor in _divisors(setup.clips):
        batch = setup.clips * setup.gpus // factor
        text = f"task.batch_size={batch} loop.accumulate={setup.parts * factor}"
        yield "parts", text, _to_parts(factor)
    if setup.average:
        yield "average", "loop.ema_decay=null", lambda s: replace(s, average=False)
    for factor in _divisors(setup.clips):
        gpus = setup.gpus * factor
        nodes = -(-gpus // max(cluster.gpus_per_node, min(gpus, 8)))
        if gpus % nodes == 0:
            text = f"--nodes {nodes} --gpus {gpus // nodes}"
            yield "gpus", text, _to_gpus(factor)


def _is_possible(setup: Setup) -> bool:
    """Whether its ZeRO stage has what it offloads."""
    least = {"none": 0, "optimizer": 1, "weights": 3}[setup.offload]
    return setup.zero_stage >= least


def _divisors(number: int) -> list[int]:
    return [factor for factor in range(2, number + 1) if number % factor == 0]


def _to_stage(stage: int) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, zero_stage=stage)


def _to_offload(offload: Offload) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, offload=offload)


def _to_parts(factor: int) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, clips=setup.clips // factor, parts=setup.parts * factor)


def _to_gpus(factor: int) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, gpus=setup.gpus * factor, clips=setup.clips // factor)
