"""A training step in parts, its share of the machine's measured peak, and whether the loader keeps up."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from configs.errors import UserError
from configs.loader import load_config
from data.loader import ClipLoader
from data.procedural.config import SceneConfig
from data.procedural_shards import procedural_recipe, write_procedural
from data.shard_writing import ShardWriter
from eval.benchmarks.machine_peak import matmul_peak
from models.gaussians import Gaussians
from train.engine import Engine, StepRule, set_threads
from train.engine_choice import create_engine
from train.randomness import seed_step
from train.ranks import joined_ranks
from train.tasks.reconstruction import ReconstructionConfig, ReconstructionTask
from train.tasks.registry import Recipe

NUM_CLIPS = 24
FIRST_SEED = 700_000_000


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


def benchmark_train(recipe: Path, threads: int, steps: int = 6) -> dict[str, Any]:
    """Seconds of the parts of a step of a reconstruction recipe, on made-up clips; medians over steps."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, torch_threads(threads):
        config = _recipe(recipe, Path(folder), threads)
        task = config.task.create(config.seed)
        assert isinstance(task, ReconstructionTask)
        with joined_ranks(config.engine.device) as ranks:
            rule = StepRule(1, config.loop.clip_norm)
            engine = create_engine(task.build(), config.optimizer, config.engine, rule, ranks)
            engine.model.train()
            loader = task.loader(rank=0, world_size=1, start=0)
            try:
                batches = iter(loader)
                parts = [
                    _step(task, engine, batches, config.seed, step, config.optimizer.lr)
                    for step in range(steps + 1)
                ][1:]  # the first one compiles and warms up
                flops = _model_flops(task, engine, next(batches), config.seed)
            finally:
                loader.close()
        dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
        peak = matmul_peak(dtype)
    medians = {name: statistics.median(p[name] for p in parts) for name in parts[0]}
    total = sum(medians.values())
    model = medians["model forward"] + medians["model backward"]
    return {
        "benchmark": "train",
        "recipe": str(recipe),
        "threads": threads,
        "precision": config.engine.precision,
        "batch_size": config.task.batch_size,
        "rows": [
            {"part": name, "seconds": round(value, 4), "share": round(value / total, 3)}
            for name, value in medians.items()
        ],
        "step_seconds": round(total, 4),
        "samples_per_second": round(config.task.batch_size / total, 2),
        "model_gflop_per_step": round(flops / 1e9, 1),
        "peak_gflops": round(peak / 1e9, 1),
        "model_share_of_peak": round(flops / model / peak, 3),
        "step_share_of_peak": round(flops / total / peak, 3),
    }


def benchmark_loader(recipe: Path, threads: int, batches: int = 8) -> dict[str, Any]:
    """Samples a second that the loader gives, for 0, 1 and 2 workers, beside what a step consumes."""
    step = benchmark_train(recipe, threads, steps=3)
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, torch_threads(threads):
        for workers in (0, 1, 2):
            config = _recipe(recipe, Path(folder), threads, workers)
            task = config.task.create(config.seed)
            loader = task.loader(rank=0, world_size=1, start=0)
            try:
                rate = _loading_rate(loader, batches, config.task.batch_size)
            finally:
                loader.close()
            needed = step["samples_per_second"]
            rows.append(
                {
                    "workers": workers,
                    "samples_per_second": round(rate, 1),
                    "times_needed": round(rate / needed, 1),
                }
            )
    return {
        "benchmark": "loader",
        "recipe": str(recipe),
        "rows": rows,
        "step_consumes_samples_per_second": step["samples_per_second"],
    }


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many torch threads while entered."""
    before = torch.get_num_threads()
    set_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _recipe(recipe: Path, folder: Path, threads: int, workers: int | None = None) -> Recipe:
    """The recipe over a few clips made here, once for each folder."""
    shards = folder / "shards"
    overrides = [
        f"task.data=[{shards}]",
        f"task.validation_data={shards}",
        "task.num_validation_clips=1",
        f"task.color_skip_clips={NUM_CLIPS}",
        f"engine.threads={threads}",
        "engine.kind=plain",
    ]
    if workers is not None:
        overrides.append(f"task.num_workers={workers}")
    config = load_config(recipe, overrides, Recipe)
    if not isinstance(config.task, ReconstructionConfig):
        raise UserError(f"{recipe} trains a {config.task.kind}; not a reconstruction recipe")
    if not shards.exists():
        scene = SceneConfig(num_frames=config.task.views.num_input)
        writer = ShardWriter(
            shards, recipe=procedural_recipe(FIRST_SEED, scene), expected=NUM_CLIPS
        )
        with writer:
            write_procedural(writer, FIRST_SEED, scene)
    return config


def _step(
    task: ReconstructionTask,
    engine: Engine,
    batches: Iterator[dict[str, Tensor]],
    seed: int,
    step: int,
    lr: float,
) -> dict[str, float]:
    """One optimizer step as the loop makes it; seconds of its parts."""
    parts = StepParts()
    with parts.measured("data"):
        batch = next(batches)
    plain_render = task.render

    def timed_render(gaussians: Gaussians, cameras: Any) -> Any:
        with parts.measured("render forward"):
            drawn = plain_render(gaussians, cameras)
        parts.watch_backward(gaussians, drawn.frames)
        return drawn

    task.render = timed_render  # type: ignore[method-assign]
    try:
        started = time.perf_counter()
        with engine.autocast():
            losses = task.losses(engine.model, batch, seed_step(seed, step, 0, 0))
        forward = time.perf_counter()
        engine.backward(losses["loss"])
        backward = time.perf_counter()
    finally:
        task.render = plain_render  # type: ignore[method-assign]
    with parts.measured("optimiser"):
        engine.step(lr=lr, norm_limit=float("inf"), skip=False)
    found = parts.seconds
    return {
        "data": found["data"],
        "model forward": forward - started - found["render forward"],
        "render forward": found["render forward"],
        "render backward": found["render backward"],
        "model backward": backward - forward - found["render backward"],
        "optimiser": found["optimiser"],
    }


def _model_flops(
    task: ReconstructionTask, engine: Engine, batch: dict[str, Tensor], seed: int
) -> int:
    """Matrix and convolution FLOPs of the model in one step, forward and backward."""
    counter = FlopCounterMode(display=False)
    with counter:
        with engine.autocast():
            losses = task.losses(engine.model, batch, seed_step(seed, 0, 0, 0))
        engine.backward(losses["loss"])
    return int(counter.get_total_flops())


def _loading_rate(loader: ClipLoader, batches: int, batch_size: int) -> float:
    waiting = iter(loader)
    next(waiting)  # starting the workers
    started = time.perf_counter()
    for _ in range(batches):
        next(waiting)
    return batches * batch_size / (time.perf_counter() - started)
