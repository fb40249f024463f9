"""From where a scene is looked at while it is distilled: along its own path, and a little beside it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from pydantic import Field, model_validator

from configs.loader import Config
from data.camera_interpolation import interpolate_cameras
from data.camera_offsets import step_aside
from data.cameras import Cameras
from models.priors.interface import DiffusionPrior

VIEWS_AT_ONCE = 4
"""Of a prior that takes any number."""


class CameraSamplerConfig(Config):
    """How far cameras stray from the scene's path."""

    beside: float = Field(
        0.1, ge=0, description="at most so far off the path, as a share of the scene's depth"
    )
    reach: tuple[float, float] = Field(
        (0.5, 1.0), description="a path goes so far along the scene's own, by shares of it"
    )

    @model_validator(mode="after")
    def _reach_is_ordered(self) -> CameraSamplerConfig:
        low, high = self.reach
        if not 0 < low <= high <= 1:
            raise ValueError(f"reach is ({low:g}, {high:g}); expected 0 < lower <= upper <= 1")
        return self


@runtime_checkable
class ViewSampler(Protocol):
    """Says from where a scene is looked at in a step."""

    def draw(self, prior: DiffusionPrior, generator: torch.Generator) -> Cameras:
        """What the prior wants to look at, in its frame size."""
        ...


class CameraSampler:
    """Draws the cameras of a step from the scene's path, whose first view is the input's."""

    def __init__(self, path: Cameras, depth: float, config: CameraSamplerConfig) -> None:
        """depth: of what the scene shows, along the cameras' axes [scene units]."""
        self.path, self.depth, self.config = path, depth, config

    def draw(self, prior: DiffusionPrior, generator: torch.Generator) -> Cameras:
        """What the prior wants to look at, in its frame size."""
        if prior.kind == "path":
            cameras = self.draw_path(prior.num_views or VIEWS_AT_ONCE, generator)
        else:
            cameras = self.draw_views(prior.num_views or VIEWS_AT_ONCE, generator)
        if prior.frame_size is not None:
            cameras = cameras.resize(*prior.frame_size)
        return cameras

    def draw_path(self, num_views: int, generator: torch.Generator) -> Cameras:
        """A path from the input view on: part of the scene's own, bent aside more and more."""
        low, high = self.config.reach
        reach = low + (high - low) * float(torch.rand((), generator=generator))
        ramp = torch.linspace(0, 1, num_views)
        along = interpolate_cameras(self.path, ramp * reach * (self.path.num_views - 1))
        return step_aside(along, ramp[:, None] * self._aside(1, generator), self.depth)

    def draw_views(self, num_views: int, generator: torch.Generator) -> Cameras:
        """Views each by itself, anywhere along the path and beside it."""
        places = torch.rand(num_views, generator=generator) * (self.path.num_views - 1)
        along = interpolate_cameras(self.path, places)
        return step_aside(along, self._aside(num_views, generator), self.depth)

    def _aside(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Offsets evenly over the disc across the camera's axis."""
        angle = 2 * torch.pi * torch.rand(count, generator=generator)
        size = self.config.beside * self.depth * torch.rand(count, generator=generator).sqrt()
        return torch.stack([size * angle.cos(), size * angle.sin(), torch.zeros(count)], dim=1)
