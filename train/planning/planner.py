"""Everything that a plan says, as numbers: the rehearsals, and what they mean for a cluster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from configs.errors import UserError
from train.planning.cluster import Cluster
from train.planning.data_volume import sample_bytes
from train.planning.module_counts import ModuleCount, count_modules
from train.planning.outline import Outline, outline_recipe
from train.planning.rehearsal import Rehearsal, check_devices, rehearse
from train.planning.switches import (
    checkpointing,
    checkpointing_key,
    perceptual_groups,
    with_switches,
)
from train.planning.verdict import Change, Setup, changes_that_fit, memory_of
from train.planning.zero_memory import (
    FLOAT,
    STAGES,
    Footprint,
    Memory,
    gpu_memory,
    network_bytes,
)
from train.tasks.registry import Recipe


@dataclass(frozen=True)
class Row:
    """One way to run the recipe on this cluster; `offloaded` with the optimizer in host memory."""

    stage: int
    checkpointing: bool | None
    memory: Memory
    offloaded: Memory | None


@dataclass(frozen=True)
class Plan:
    """What a recipe takes on a cluster.

    flops: of one step of the whole cluster, by pass: forward, backward, recompute.
    rendered: Gaussians times views that a step draws, which its FLOPs don't count; 0 where nothing is drawn.
    seconds: of a step, from FLOPs, peak and utilisation, and of drawing where its rate is known.
    sample_bytes: that are read for a clip. source: where that figure is from.
    checkpoint_bytes: of one checkpoint. network: bytes that a GPU sends in a step.
    rows: ZeRO's stages, without and with checkpointing and offload. memory: of the recipe as it is.
    """

    recipe: Recipe
    cluster: Cluster
    setup: Setup
    modules: tuple[ModuleCount, ...]
    tokens: dict[str, int]
    losses: tuple[str, ...]
    without_gradient: tuple[str, ...]
    flops: dict[str, float]
    flops_by_part: dict[str, float]
    held: dict[str, int]
    rendered: int
    seconds: float
    sample_bytes: float
    source: str
    checkpoint_bytes: int
    network: float
    rows: tuple[Row, ...]
    memory: Memory
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def trained(self) -> int:
        return sum(count.trained for count in self.modules)

    @property
    def frozen(self) -> int:
        return sum(count.frozen for count in self.modules)

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.cluster.usable


def make_plan(
    recipe: Recipe,
    cluster: Cluster,
    file: Path | None = None,
    progress: Callable[[str], None] = lambda words: None,
) -> Plan:
    """The plan of a recipe, whose file may lie beside those that make what it needs.

    progress: is told what is being done. Raises UserError where sizes are not known or the batch can't be shared out;
    anything that the training step itself would raise, it raises too.
    """
    setup = _setup(recipe, cluster)
    rehearsed = _Rehearsals(recipe, file, progress)
    progress("rehearsing where tensors lie")
    check_devices(outline_recipe(recipe, file), 1)
    outline = outline_recipe(recipe, file)  # a rehearsal uses one up
    modules = count_modules(outline)
    now = rehearsed.of(setup, setup.clips)
    footprints = _Footprints(modules, setup, rehearsed)
    memory = memory_of(setup, footprints.of)
    progress("looking for changes")
    changes = []
    if memory.total > cluster.usable:
        changes = changes_that_fit(setup, cluster, footprints.of, checkpointing_key(recipe))
    flops = _flops(setup, rehearsed)
    size, source = sample_bytes(outline)
    trained = sum(count.trained for count in modules)
    rendered = _rendered(outline) * setup.clips_a_step
    seconds = sum(flops.values()) / (cluster.gpus * cluster.peak * cluster.utilisation)
    if cluster.splat_rate is not None:
        seconds += rendered / (cluster.gpus * cluster.splat_rate)
    return Plan(
        recipe=recipe,
        cluster=cluster,
        setup=setup,
        modules=modules,
        tokens=outline.tokens,
        losses=now.losses,
        without_gradient=now.without_gradient,
        flops=flops,
        flops_by_part={
            name: float(value) * setup.gpus * setup.parts for name, value in now.forward.items()
        },
        held=now.held,
        rendered=rendered,
        seconds=seconds,
        sample_bytes=size,
        source=source,
        checkpoint_bytes=FLOAT * trained * (3 + setup.average),
        network=network_bytes(trained, setup.stage, setup.gpus),
        rows=tuple(_rows(setup, footprints.of)),
        memory=memory,
        changes=tuple(changes),
        notes=tuple(outline.notes),
    )


class _Rehearsals:
    """Rehearsals of a recipe, each made once."""

    def __init__(self, recipe: Recipe, file: Path | None, progress: Callable[[str], None]) -> None:
        self._at = cache(self._rehearse)
        self.recipe, self.file, self.progress = recipe, file, progress

    def of(self, setup: Setup, clips: int) -> Rehearsal:
        """With the switches of `setup`, and so many clips together."""
        return self._at(setup.checkpointing, setup.grouped, clips)

    def _rehearse(self, checkpointed: bool | None, grouped: bool | None, clips: int) -> Rehearsal:
        words = {None: "", True: ", with checkpointing", False: ", without checkpointing"}
        self.progress(f"rehearsing a step of {clips} clips a GPU{words[checkpointed]}")
        recipe = with_switches(self.recipe, checkpointed, grouped)
        return rehearse(outline_recipe(recipe, self.file), clips)


class _Footprints:
    """Footprints of setups, by rehearsals of the most clips and of one; in between the chord, which is not below."""

    def __init__(
        self, modules: tuple[ModuleCount, ...], setup: Setup, rehearsed: _Rehearsals
    ) -> None:
        self.most, self.rehearsed = setup.clips, rehearsed
        self.trained = sum(count.trained for count in modules)
        self.frozen = sum(count.frozen_bytes for count in modules)

    def of(self, setup: Setup) -> Footprint:
        most = self.rehearsed.of(setup, self.most)
        least = self.rehearsed.of(setup, 1) if setup.clips < self.most else most
        share = 1.0 if self.most == 1 else (setup.clips - 1) / (self.most - 1)

        def between(name: str) -> int:
            low, high = getattr(least, name), getattr(most, name)
            return high if setup.clips == self.most else round(low + share * (high - low))

        return Footprint(
            trained=self.trained,
            frozen=self.frozen,
            average=setup.average,
            batch=between("batch"),
            peak=between("peak"),
            peak_beside_gradients=between("peak_beside_gradients"),
            step_peak=most.step_peak,
            parts=setup.parts,
        )


def _setup(recipe: Recipe, cluster: Cluster) -> Setup:
    batch, gpus = recipe.task.batch_size, cluster.gpus
    if recipe.engine.kind == "plain" and gpus > 1:
        raise UserError(
            f"engine.kind=plain is for one process, but the plan is for {gpus} GPUs; use engine.kind=auto"
        )
    if batch % gpus:
        near = sorted(
            (n for n in range(1, batch + 1) if batch % n == 0), key=lambda n: abs(n - gpus)
        )
        raise UserError(
            f"task.batch_size={batch} does not divide among {gpus} GPUs; plan for {near[0]} of them, or with"
            f" task.batch_size={math.ceil(batch / gpus) * gpus}"
        )
    return Setup(
        gpus=gpus,
        clips=batch // gpus,
        parts=recipe.loop.accumulate,
        zero_stage=recipe.engine.zero_stage,
        checkpointing=checkpointing(recipe),
        grouped=perceptual_groups(recipe),
        average=recipe.loop.ema_decay is not None,
        offload=recipe.engine.offload,
        deepspeed=recipe.engine.kind == "deepspeed",
    )


def _rows(setup: Setup, measure: Callable[[Setup], Footprint]) -> list[Row]:
    rows = []
    switches = [None] if setup.checkpointing is None else [False, True]
    for stage in (0,) if setup.plain else STAGES:
        for checkpointed in switches:
            footprint = measure(replace(setup, checkpointing=checkpointed))
            memory = gpu_memory(footprint, stage, setup.gpus, plain=setup.plain)
            offloaded = None
            if stage:
                offloaded = gpu_memory(footprint, stage, setup.gpus, offload="optimizer")
            rows.append(Row(stage, checkpointed, memory, offloaded))
    return rows


def _flops(setup: Setup, rehearsed: _Rehearsals) -> dict[str, float]:
    """Of a whole step: what is computed again is what the backward pass has more than without checkpointing."""
    times = setup.gpus * setup.parts
    now = rehearsed.of(setup, setup.clips)
    forward, backward = sum(now.forward.values()), sum(now.backward.values())
    kept = replace(
        setup, checkpointing=setup.checkpointing and False, grouped=setup.grouped and False
    )
    again = backward - sum(rehearsed.of(kept, setup.clips).backward.values())
    return {
        "forward": float(forward * times),
        "backward": float((backward - again) * times),
        "recompute": float(again * times),
    }


def _rendered(outline: Outline) -> int:
    """Gaussians times views of one clip."""
    if "target_frames" not in outline.sample:
        return 0
    height, width = outline.size
    gaussians = outline.sample["input_frames"][0] * (height // 2) * (width // 2)
    return gaussians * outline.sample["target_frames"][0]
