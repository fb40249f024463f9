from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.cameras import Cameras, intrinsics_from_fov
from models.video.base import VideoBase, VideoModelConfig, create_base


@pytest.fixture
def tiny_video() -> VideoModelConfig:
    return VideoModelConfig(
        latent_channels=4,
        heads=2,
        head_width=16,
        layers=3,
        time_width=16,
        text_width=8,
        text_tokens=2,
        num_frames=9,
        height=32,
        width=48,
        learned_positions=False,
    )


@pytest.fixture
def new_video_base(tiny_video: VideoModelConfig) -> Callable[..., VideoBase]:
    """Makes tiny bases with no weight at zero, so that nothing is equal for want of signal."""

    def make(seed: int = 0, **changes: Any) -> VideoBase:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base = create_base(tiny_video.model_copy(update=changes))
            for parameter in base.transformer.parameters():
                nn.init.normal_(parameter, std=0.1)
        return base

    return make


@pytest.fixture
def video_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, image latents and timesteps of two samples for the tiny base."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, 3, 4, 6, generator=generator)
    image = torch.randn(2, 4, 1, 4, 6, generator=generator)
    return noisy, image, torch.tensor([999, 20])


@pytest.fixture
def video_cameras() -> Cameras:
    """Cameras of two clips of nine frames of 32x48, moving apart from each other."""
    generator = torch.Generator().manual_seed(2)
    transforms = torch.eye(4).repeat(2, 9, 1, 1)
    steps = 0.1 * torch.randn(2, 8, 3, generator=generator)
    transforms[:, 1:, :3, 3] = steps.cumsum(dim=1)
    intrinsics = intrinsics_from_fov(50.0, 32, 48).expand(2, 9, 3, 3)
    return Cameras(transforms, intrinsics, 32, 48)
