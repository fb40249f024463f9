"""A training step in parts, and its share of the machine's measured matmul peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eval.benchmarks.machine_peak import matmul_peak
from models.gaussians import Gaussians
from train.engine import Engine
from train.planning.memory_tracker import FORMULAS
from train.randomness import seed_step
from train.task import Task
from train.tasks.reconstruction import ReconstructionTask
from train.tasks.registry import Recipe

MODEL_PARTS = ("model forward", "model backward")
aten = torch.ops.aten


def _of_tensors(formula: Any) -> Any:
    """The registry's formula, told apart from one that takes shapes."""

    def count(*args: Any, **kwargs: Any) -> int:
        return int(formula(*args, **kwargs))

    count._get_raw = True  # type: ignore[attr-defined]
    return count


CPU_ATTENTION = {
    kernel: _of_tensors(FORMULAS[kernel])
    for kernel in (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )
}
"""What torch's counter leaves out."""


class StepParts:
    """Seconds of each part of a step; rendering is told from the model by hooks on its tensors."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._render_starts = 0.0

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - started)

    def watch_backward(self, gaussians: Gaussians, frames: Tensor) -> None:
        """Books the time from the frames' gradient to the last gradient of the Gaussians as rendering."""
        watched = [t for t in gaussians.tensors().values() if t.requires_grad]
        left = len(watched)

        def started(gradient: Tensor) -> None:
            self._render_starts = time.perf_counter()

        def reached(gradient: Tensor) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.add("render backward", time.perf_counter() - self._render_starts)

        frames.register_hook(started)
        for tensor in watched:
            tensor.register_hook(reached)


def measure_step(task: Task, engine: Engine, config: Recipe, steps: int = 6) -> dict[str, Any]:
    """Medians over steps of the seconds of each part, and of the shares of the matmul peak.

    The peak is measured again after every step, so that what else the machine does weighs on both alike.
    """
    engine.model.train()
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    parts, peaks = [], []
    loader = task.loader(rank=0, world_size=1, start=0)
    try:
        batches = iter(loader)
        for step in range(steps + 1):
            parts.append(_step(task, engine, next(batches), config, step))
            peaks.append(matmul_peak(dtype))
        flops = count_flops(task, engine, next(batches), config.seed)
    finally:
        loader.close()
    del parts[0], peaks[0]  # the first one compiles and warms up
    return {"precision": config.engine.precision} | summarise(
        parts, peaks, flops, config.task.batch_size
    )


def summarise(
    parts: list[dict[str, float]], peaks: list[float], flops: int, batch_size: int
) -> dict[str, Any]:
    """The figures of some steps, from the seconds of their parts and the peak [FLOP/s] measured beside each."""
    medians = {name: statistics.median(p[name] for p in parts) for name in parts[0]}
    total = sum(medians.values())
    of_model, of_step = (
        statistics.median(
            flops / sum(p[name] for name in names) / peak
            for p, peak in zip(parts, peaks, strict=True)
        )
        for names in (MODEL_PARTS, tuple(medians))
    )
    return {
        "rows": [
            {"part": name, "seconds": round(value, 4), "share": round(value / total, 3)}
            for name, value in medians.items()
        ],
        "step_seconds": round(total, 4),
        "samples_per_second": round(batch_size / total, 2),
        "model_gflop_per_step": round(flops / 1e9, 1),
        "peak_gflops": round(statistics.median(peaks) / 1e9, 1),
        "model_share_of_peak": round(of_model, 3),
        "step_share_of_peak": round(of_step, 3),
    }


def _step(
    task: Task, engine: Engine, batch: dict[str, Tensor], config: Recipe, step: int
) -> dict[str, float]:
    """One optimizer step as the loop makes it; seconds of its parts, with rendering apart where there is any."""
    parts = StepParts()
    with _render_timed(task, parts):
        started = time.perf_counter()
        with engine.autocast():
            losses = task.losses(engine.model, batch, seed_step(config.seed, step, 0, 0))
        forward = time.perf_counter()
        engine.backward(losses["loss"])
        backward = time.perf_counter()
    with parts.measured("optimiser"):
        engine.step(lr=config.optimizer.lr, norm_limit=float("inf"), skip=False)
    found = parts.seconds
    renders = {name: found[name] for name in found if name.startswith("render")}
    return {
        "model forward": forward - started - found.get("render forward", 0.0),
        **renders,
        "model backward": backward - forward - found.get("render backward", 0.0),
        "optimiser": found["optimiser"],
    }


@contextmanager
def _render_timed(task: Task, parts: StepParts) -> Iterator[None]:
    if not isinstance(task, ReconstructionTask):
        yield
        return
    plain_render = task.render

    def timed_render(gaussians: Gaussians, cameras: Any) -> Any:
        with parts.measured("render forward"):
            drawn = plain_render(gaussians, cameras)
        parts.watch_backward(gaussians, drawn.frames)
        return drawn

    task.render = timed_render  # type: ignore[method-assign]
    try:
        yield
    finally:
        task.render = plain_render  # type: ignore[method-assign]


def count_flops(task: Task, engine: Engine, batch: dict[str, Tensor], seed: int) -> int:
    """FLOPs of matrix products, convolutions and attention in one step, forward and backward.

    What the rasteriser computes is not among them. The gradients stay in the engine.
    """
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        with engine.autocast():
            losses = task.losses(engine.model, batch, seed_step(seed, 0, 0, 0))
        engine.backward(losses["loss"])
    return int(counter.get_total_flops())
