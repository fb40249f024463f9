"""Tiny video models with camera branches, for the tests of the branches and of their files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.video.base import VideoBase
from models.video.camera_branches import CameraBranches, CameraBranchesConfig
from models.video.model import VideoModel
from models.video.positions import rotary_embedding

NewBase = Callable[..., VideoBase]
Inputs = tuple[Tensor, Tensor, Tensor]

TINY = CameraBranchesConfig(control_blocks=2, lora_rank=3, encoder_width=8)
COMBINATIONS = [
    TINY,
    TINY.model_copy(update={"branches": ("control",)}),
    TINY.model_copy(update={"branches": ("lora",)}),
    TINY.model_copy(update={"lora_rank": 0}),
    TINY.model_copy(update={"control_blocks": 3, "lora_targets": ("to_q", "ff.net.0.proj")}),
]


def attached(base: VideoBase, config: CameraBranchesConfig = TINY, **options: Any) -> VideoModel:
    torch.manual_seed(3)
    branches = CameraBranches(config, base.transformer)
    return VideoModel(base, branches, **{"train_base": False} | options)


def randomise(module: nn.Module) -> None:
    torch.manual_seed(4)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)


def call(base: VideoBase, inputs: Inputs, repeats: int = 1) -> Tensor:
    """The base as the stock pipeline calls it."""
    noisy, image, timesteps = (x.repeat(repeats, *[1] * (x.ndim - 1)) for x in inputs)
    return base.transformer(
        hidden_states=base.transformer_input(noisy, image),
        encoder_hidden_states=base.no_text(len(noisy)),
        timestep=timesteps,
        image_rotary_emb=rotary_embedding(base.transformer.config, 3, 4, 6, noisy.device),
        return_dict=False,
    )[0]
