"""Small recipes, and the same training step as a rehearsal and for real."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from models.autoencoders.files import load_autoencoder
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.video.base import VideoModelConfig, create_base, save_base
from train.engine import autocast
from train.optimizer import create_optimizer
from train.planning.outline import outline_recipe
from train.task import Task
from train.tasks.autoencoder import AutoencoderTask
from train.tasks.reconstruction import ReconstructionTask
from train.tasks.registry import Recipe
from train.tasks.video import VideoTask

sys.path.insert(0, str(Path(__file__).parent))  # for cpu_raster_shapes

CPU = torch.device("cpu")
BASE = VideoModelConfig(
    latent_channels=8, heads=2, head_width=64, layers=2, patch=1, time_width=32, text_width=16,
    text_tokens=4, num_frames=17, height=32, width=48, learned_positions=False,
)  # fmt: skip
LALRM = {"latent_channels": 8, "width": 128, "depth": 3, "heads": 2, "patch": 1}

NewRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear codec in codec/, and a video base of random weights in base/."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LinearCodec(LinearCodecConfig(latent_channels=8)).save_pretrained(folder / "codec")
        save_base(create_base(BASE), folder / "base")
    return folder


@pytest.fixture(scope="session")
def new_recipe(weights: Path) -> NewRecipe:
    """Makes recipes of a kind ("video", "reconstruction", "autoencoder"); changes are keys of the task or the run."""

    def make(
        kind: str, precision: str = "fp32", loop: dict[str, Any] | None = None, **task: Any
    ) -> Recipe:
        data = {
            "data": ["shards"],
            "validation_data": "shards",
            "frame_size": [32, 48],
            "batch_size": 4,
        }
        settings: dict[str, Any] = {
            "video": {
                "base": weights / "base",
                "branches": {"control_blocks": 1, "lora_rank": 8, "encoder_width": 16},
                "autoencoder": weights / "codec",
                "latents": "stored",
            },
            "reconstruction": {
                "model": LALRM,
                "autoencoder": weights / "codec",
                "latents": "stored",
                "loss": {"depth": 0.1, "opacity": 0.1},
            },
            "autoencoder": {
                "model": {
                    "kind": "cogvideox",
                    "norm_groups": 4,
                    "block_out_channels": [8, 16, 16, 16],
                },
                "num_frames": 9,
                "batch_size": 2,
            },
        }[kind]
        return Recipe.model_validate(
            {
                "name": kind,
                "task": {"kind": kind} | data | settings | task,
                "loop": {"steps": 10, "clip_norm": 1.0} | (loop or {}),
                "engine": {"precision": precision},
            }
        )

    return make


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


@pytest.fixture
def real_step() -> Callable[[Recipe, int], RealStep]:
    """Makes the real step of a recipe, warmed up, after one optimizer step."""

    def make(recipe: Recipe, batch_size: int) -> RealStep:
        task = open_task(recipe)
        model = task.build().train()
        optimizer = create_optimizer(model, recipe.optimizer)
        step = RealStep(
            task, model, optimizer, real_batch(recipe, batch_size), recipe.engine.precision
        )
        step.run()
        optimizer.step()
        step.clear()
        return step

    return make


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
