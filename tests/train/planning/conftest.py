"""Small recipes, and the same training step as a rehearsal and for real."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.video.base import create_base, save_base
from train.optimizer import create_optimizer
from train.tasks.registry import Recipe

sys.path.insert(0, str(Path(__file__).parent))  # for small_steps, cpu_raster_shapes

from small_steps import BASE, LALRM, NewRecipe, RealStep, open_task, real_batch


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
