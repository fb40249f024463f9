"""The sizes of small recipes, and their training step for real."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from models.autoencoders.files import load_autoencoder
from models.video.base import VideoModelConfig
from train.engine import autocast
from train.planning.outline import outline_recipe
from train.task import Task
from train.tasks.autoencoder import AutoencoderTask
from train.tasks.reconstruction import ReconstructionTask
from train.tasks.registry import Recipe
from train.tasks.video import VideoTask

CPU = torch.device("cpu")
BASE = VideoModelConfig(
    latent_channels=8, heads=2, head_width=64, layers=2, patch=1, time_width=32, text_width=16,
    text_tokens=4, num_frames=17, height=32, width=48, learned_positions=False,
)  # fmt: skip
LALRM = {"latent_channels": 8, "width": 128, "depth": 3, "heads": 2, "patch": 1}

NewRecipe = Callable[..., Recipe]


def open_task(recipe: Recipe) -> Task:
    """The recipe's task with real weights and without shards."""
    config = recipe.task
    if config.kind == "autoencoder":
        return AutoencoderTask(config, 0)
    codec = load_autoencoder(config.autoencoder)
    if config.kind == "video":
        return VideoTask(config, 0, autoencoder=codec, size=config.frame_size)
    return ReconstructionTask(config, 0, autoencoder=codec)


def real_batch(recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
    """Plausible values in the shapes that a rehearsal has."""
    batch = {}
    for name, shape in outline_recipe(recipe).sample.items():
        batch[name] = torch.rand(batch_size, *shape)
        if name.endswith("world_to_camera"):
            batch[name] = torch.eye(4).repeat(batch_size, shape[0], 1, 1)
            batch[name][..., 2, 3] = torch.linspace(0, 0.3, shape[0])
        elif name.endswith("intrinsics"):
            matrix = torch.tensor([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]])
            batch[name] = matrix.repeat(batch_size, shape[0], 1, 1)
    return batch


@dataclass
class RealStep:
    """One task with its model, an optimizer and a batch, on this CPU."""

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]
    precision: str

    def run(self) -> None:
        """Forward and backward."""
        generator = torch.Generator().manual_seed(0)
        with autocast(CPU, self.precision):
            loss = self.task.losses(self.model, self.batch, generator)["loss"]
        loss.backward()

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)


def allocated_peak(run: Callable[[], None]) -> int:
    """Most bytes that PyTorch's CPU allocator held at once more than before, by its own reports."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held, peak = 0, -math.inf
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return int(peak)
