"""Frames at growing resolution: a run starts on small pictures, which are cheap and whose gradients reach far."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from configs.loader import Config
from data.cameras import Cameras

LEAST_SIDE = 16
"""No picture is made smaller than this [px]."""


class ResolutionStage(Config):
    """From when on frames are reduced how much."""

    start: float = Field(ge=0, lt=1, description="share of the run that is over")
    shrink: int = Field(gt=0, description="frames are smaller than given by this")


class ResolutionConfig(Config):
    """Stages of a run; DreamGaussian has 128, 256 and 512 px from 0, 30 and 60% on: shrink 4, 2, 1."""

    stages: tuple[ResolutionStage, ...] = (ResolutionStage(start=0.0, shrink=1),)

    @field_validator("stages")
    @classmethod
    def _stages_are_ordered(
        cls, stages: tuple[ResolutionStage, ...]
    ) -> tuple[ResolutionStage, ...]:
        starts = [stage.start for stage in stages]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(
                f"stages start at {starts}; expected 0 first, and each later than the last"
            )
        return stages

    def shrink_at(self, progress: float) -> int:
        """The reduction when `progress` of the run is over."""
        return [stage.shrink for stage in self.stages if stage.start <= progress][-1]


def shrink_size(height: int, width: int, shrink: int) -> tuple[int, int]:
    """Height and width reduced, but to no less than `LEAST_SIDE` where they had more."""
    return (
        max(min(height, LEAST_SIDE), round(height / shrink)),
        max(min(width, LEAST_SIDE), round(width / shrink)),
    )


@dataclass(frozen=True)
class Level:
    """Frames and their cameras at one resolution; depth where it is known."""

    frames: Float[Tensor, "v 3 h w"]
    cameras: Cameras
    depth: Float[Tensor, "v h w"] | None


class Pyramid:
    """Frames at every resolution that a config asks for; nothing is resized where none is reduced."""

    def __init__(
        self,
        frames: Float[Tensor, "v 3 h w"],
        cameras: Cameras,
        depth: Float[Tensor, "v h w"] | None,
        config: ResolutionConfig,
    ) -> None:
        self.config = config
        whole = Level(frames, cameras, depth)
        self.levels = {stage.shrink: _reduced(whole, stage.shrink) for stage in config.stages}

    def at(self, progress: float) -> Level:
        return self.levels[self.config.shrink_at(progress)]


def _reduced(whole: Level, shrink: int) -> Level:
    height, width = shrink_size(whole.cameras.height, whole.cameras.width, shrink)
    if (height, width) == (whole.cameras.height, whole.cameras.width):
        return whole
    depth = whole.depth
    if depth is not None:
        depth = F.interpolate(depth[:, None], (height, width), mode="nearest-exact")[:, 0]
    frames = F.interpolate(whole.frames, (height, width), mode="area")
    return Level(frames, whole.cameras.resize(height, width), depth)
