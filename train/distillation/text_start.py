"""A scene from words alone: where its Gaussians start, and from where it is looked at.

DreamGaussian's (arXiv 2309.16653) for text: a small ball of faint Gaussians at the origin, seen from all around.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator

from configs.loader import Config
from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians
from models.priors.interface import DiffusionPrior

GREY = 0.5


class TextStartConfig(Config):
    """The ball, and the cameras around it. Its unit of length is the cameras' distance."""

    num_gaussians: int = Field(5000, gt=0)
    radius: float = Field(0.25, gt=0, description="of the ball")
    opacity: float = Field(0.1, gt=0, lt=1)
    fov_deg: float = Field(49.1, gt=0, lt=180, description="vertical; DreamGaussian's")
    elevation_deg: tuple[float, float] = Field(
        (-10.0, 45.0), description="cameras stand so far above the ball's horizon"
    )
    views_at_once: int = Field(4, gt=0)

    @model_validator(mode="after")
    def _elevation_is_ordered(self) -> TextStartConfig:
        low, high = self.elevation_deg
        if not -90 < low <= high < 90:
            raise ValueError(
                f"elevation_deg is ({low:g}, {high:g}); expected -90 < lower <= upper < 90"
            )
        return self


def ball_of_gaussians(config: TextStartConfig, generator: torch.Generator) -> Gaussians:
    """Faint grey Gaussians, even over the ball, as large as their spacing."""
    count = config.num_gaussians
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    away = config.radius * torch.rand(count, 1, generator=generator) ** (1 / 3)
    spacing = config.radius * (4 / 3 * math.pi / count) ** (1 / 3)
    return Gaussians(
        means=away * directions,
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        scales=torch.full((count, 3), spacing),
        opacities=torch.full((count,), config.opacity),
        colors=torch.full((count, 3), GREY),
    )


def cameras_around(
    azimuth_deg: torch.Tensor,
    elevation_deg: torch.Tensor,
    config: TextStartConfig,
    height: int,
    width: int,
) -> Cameras:
    """Upright cameras one unit from the origin, looking at it. Azimuth 0 stands at -z; elevation is upward (-y)."""
    azimuth, rise = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    outward = torch.stack(
        [azimuth.sin() * rise.cos(), -rise.sin(), -azimuth.cos() * rise.cos()], dim=1
    )
    forward = -outward
    down = forward.new_tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=1)
    to_world = torch.eye(4).repeat(len(outward), 1, 1)
    to_world[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    to_world[:, :3, 3] = outward
    lens = intrinsics_from_fov(config.fov_deg, height, width)
    return Cameras.from_camera_to_world(to_world, lens.expand(len(outward), 3, 3), height, width)


class AroundSampler:
    """Draws cameras all around the origin; a `ViewSampler` as `CameraSampler` is."""

    def __init__(self, config: TextStartConfig, height: int, width: int) -> None:
        """height, width: of the pictures, for a prior that takes any size [px]."""
        self.config, self.size = config, (height, width)

    def draw(self, prior: DiffusionPrior, generator: torch.Generator) -> Cameras:
        """Views each by itself."""
        count = prior.num_views or self.config.views_at_once
        low, high = self.config.elevation_deg
        azimuth = 360 * torch.rand(count, generator=generator)
        elevation = low + (high - low) * torch.rand(count, generator=generator)
        height, width = prior.frame_size or self.size
        return cameras_around(azimuth, elevation, self.config, height, width)

    def turntable(self, num_views: int, elevation_deg: float = 15.0) -> Cameras:
        """Once around, evenly."""
        azimuth = 360 * torch.arange(num_views) / num_views
        elevation = torch.full((num_views,), elevation_deg)
        return cameras_around(azimuth.float(), elevation, self.config, *self.size)
