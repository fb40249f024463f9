"""A recipe's full-size training step on this machine, beside what `plan` says of it.

It needs neither weights nor shards: the model is new, frozen helpers get random weights, and batches are random, but
for the cameras, which look at one place. Of a video base that is too large, a part of its layers is taken, at full
width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import load_config
from eval.benchmarks.machine_peak import matmul_peak
from models.pretrained import CONFIG_FILE
from models.video.base import SCHEDULER_FOLDER, TRANSFORMER_FOLDER
from models.video.model import VideoModel
from train.engine import PlainEngine, StepRule
from train.planning.cluster import GIB, Cluster
from train.planning.outline import Outline, outline_recipe
from train.planning.planner import make_plan
from train.planning.sizes import settings_folder
from train.randomness import seed_step
from train.ranks import Ranks
from train.step_clock import StepClock
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig

SPREAD = 0.02
"""Standard deviation of random weights."""
STEPS = 5
FIXED = (
    "task.latents=stored",
    "engine.kind=plain",
    "engine.offload=none",
    "engine.zero_stage=0",
    "loop.accumulate=1",
    "loop.ema_decay=null",
)
"""What one process without shards can do."""


def benchmark_planned(
    recipes: Sequence[Path], device: torch.device, clips: int, layers: int | None
) -> dict[str, Any]:
    """A row a recipe: the step's memory and FLOPs as planned, its memory and seconds as measured.

    clips: a step. layers: of a video base, half of them with a control branch; None keeps the recipe's. Memory is
    measured on a GPU only. Raises UserError where a recipe can't be outlined, or there is not enough memory.
    """
    rows = [_measure(recipe, device, clips, layers) for recipe in recipes]
    return {"benchmark": "planned steps", "rows": rows, "clips": clips, "layers": layers or "all"}


def _measure(recipe: Path, device: torch.device, clips: int, layers: int | None) -> dict[str, Any]:
    with TemporaryDirectory(prefix="benchmark-") as folder:
        changes = [*FIXED, f"task.batch_size={clips}"]
        config = load_config(recipe, changes, Recipe)
        if layers is not None and isinstance(config.task, VideoConfig):
            changes += _fewer_layers(config.task, layers, Path(folder))
            config = load_config(recipe, changes, Recipe)
        plan = make_plan(config, Cluster(), recipe)
        flops = sum(plan.flops.values())
        outline = outline_recipe(config, recipe)
        try:
            seconds, peak_bytes = _run(outline, device, clips)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{recipe}: a step of {clips} clips does not fit the GPU's memory; plan says"
                f" {plan.memory.total / GIB:.1f} GiB: give fewer --clips or --layers"
            ) from error
        peak = matmul_peak(_dtype(config), device=device)
    row: dict[str, Any] = {"recipe": recipe.stem, "trained_weights": plan.trained}
    row["planned_gib"] = _short(plan.memory.total / GIB)
    if peak_bytes is not None:
        row["measured_gib"] = _short(peak_bytes / GIB)
        row["measured_over_planned"] = _short(peak_bytes / plan.memory.total)
    return row | {
        "tflop": _short(flops / 1e12),
        "step_seconds": _short(seconds),
        "peak_tflops": _short(peak / 1e12),
        "share_of_peak": _short(flops / seconds / peak),
    }


def _run(outline: Outline, device: torch.device, clips: int) -> tuple[float, int | None]:
    """Median seconds of a step after the first, and the most bytes that tensors held on a GPU."""
    config = outline.recipe
    if isinstance(outline.model, VideoModel) and outline.model.branches is not None:
        outline.model.branches.detach()  # those of the meta device; the base gets real ones
    for module in outline.frozen.values():
        fill(module)
    model = outline.task.build()
    for module in outline.frozen.values():
        module.to(device)
    rule = StepRule(1, config.loop.clip_norm)
    engine = PlainEngine(model, config.optimizer, config.engine, rule, Ranks(device=device))
    engine.model.train()
    batch = {name: value.to(device) for name, value in random_batch(outline, clips).items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for step in range(STEPS + 1):
        clock = StepClock(device, lambda name: None)
        with clock.part("step"):
            with engine.autocast():
                losses = outline.task.losses(engine.model, batch, seed_step(0, step, 0, 0))
            engine.backward(losses["loss"])
            engine.step(lr=config.optimizer.lr, norm_limit=float("inf"), skip=False)
        times.append(clock.seconds["step"])
    held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return median(times[1:]), held


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Gives a module of the meta device random weights on the CPU, which keep signals finite."""
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=SPREAD)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for buffer in module.buffers():
        buffer.fill_(1)


def random_batch(outline: Outline, clips: int) -> dict[str, Tensor]:
    """A batch as the loader gives it: noise, one depth, and cameras that move sideways by a fifth of it."""
    generator = torch.Generator().manual_seed(0)
    height, width = outline.size
    batch = {}
    for name, shape in outline.sample.items():
        whole = (clips, *shape)
        if name.endswith("world_to_camera"):
            value = torch.eye(4).repeat(clips, shape[0], 1, 1)
            value[..., 0, 3] = torch.linspace(0, 0.2, shape[0])
        elif name.endswith("intrinsics"):
            k = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
            value = k.expand(whole).clone()
        elif name.endswith("depth"):
            value = torch.ones(whole)
        elif name.endswith("frames"):
            value = torch.rand(whole, generator=generator)
        else:
            value = torch.randn(whole, generator=generator)
        batch[name] = value
    return batch


def _fewer_layers(task: VideoConfig, layers: int, folder: Path) -> list[str]:
    """Changes to a recipe whose base, of published settings, then has so many layers."""
    if task.base is None:
        return [f"task.new_base.layers={layers}"]
    found = settings_folder(task.base, f"{TRANSFORMER_FOLDER}/{CONFIG_FILE}", [])
    reduced = folder / task.base.name
    shutil.copytree(found / SCHEDULER_FOLDER, reduced / SCHEDULER_FOLDER)
    settings = json.loads((found / TRANSFORMER_FOLDER / CONFIG_FILE).read_text())
    (reduced / TRANSFORMER_FOLDER).mkdir()
    (reduced / TRANSFORMER_FOLDER / CONFIG_FILE).write_text(
        json.dumps({**settings, "num_layers": layers})
    )
    changes = [f"task.base={json.dumps(str(reduced))}"]
    if task.branches is not None:
        changes.append(f"task.branches.control_blocks={max(1, layers // 2)}")
    return changes


def _dtype(config: Recipe) -> torch.dtype:
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def _short(value: float) -> float:
    return float(f"{value:.3g}")
