"""A scene of a plain posed capture: where its Gaussians start, and how they are fitted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field

from configs.errors import UserError
from data.clips import Clip
from models.gaussians import Gaussians
from train.fitting.density import DensityConfig
from train.fitting.fit import FitConfig, FitStep, FittedScene, fit_scene
from train.fitting.parameters import FitRates
from train.fitting.resolution import ResolutionConfig, ResolutionStage
from train.fitting.starts import StartConfig, gaussians_from_depth
from train.randomness import derive_seed
from train.swept_depth import SweepConfig, swept_depth

LEAST_FRAMES = 3
HELD_OUT_EVERY = 8


class CaptureFitConfig(FitConfig):
    """Longer than other fits, with density control and growing pictures; for scenes about 1 away."""

    iterations: int = Field(1500, gt=0)
    rates: FitRates = FitRates(means=2e-3)
    density: DensityConfig | None = DensityConfig(
        start=100, stop=900, every=100, max_gaussians=200_000
    )
    resolution: ResolutionConfig = ResolutionConfig(
        stages=(ResolutionStage(start=0, shrink=2), ResolutionStage(start=0.3, shrink=1))
    )
    depth_weight: float = Field(
        0.05, ge=0, description="of the difference of inverse depths, where the capture tells them"
    )
    start: StartConfig = StartConfig(opacity=0.5)
    sweep: SweepConfig = SweepConfig()


def fit_capture(
    clip: Clip,
    config: CaptureFitConfig,
    seed: int,
    on_step: Callable[[FitStep], None] | None = None,
) -> FittedScene:
    """Gaussians fitted to all frames of a clip whose scene is about 1 away, from where a plane sweep puts them.

    Raises UserError for a clip of fewer than `LEAST_FRAMES` frames.
    """
    if clip.num_frames < LEAST_FRAMES:
        raise UserError(
            f"{clip.source}: has {clip.num_frames} frames to fit; expected at least {LEAST_FRAMES}"
        )
    generator = torch.Generator().manual_seed(derive_seed("capture fit", seed))
    initial = first_gaussians(clip, config, generator)
    return fit_scene(
        initial, clip.frames, clip.cameras, config, generator, depth=clip.depth, on_step=on_step
    )


def first_gaussians(clip: Clip, config: CaptureFitConfig, generator: torch.Generator) -> Gaussians:
    """Gaussians at random pixels, as far away as a plane sweep of the frames says."""
    depth = swept_depth(clip.frames, clip.cameras, config.sweep)
    return gaussians_from_depth(clip.frames, clip.cameras, depth, config.start, generator)


def held_out_frames(num_frames: int, every: int = HELD_OUT_EVERY) -> tuple[list[int], list[int]]:
    """Frames to fit, and frames to judge by: every eighth as in mip-NeRF 360, the first never.

    A short capture has one of the latter, in its middle.
    """
    held = [view for view in range(1, num_frames) if view % every == every // 2]
    held = held or ([num_frames // 2] if num_frames > LEAST_FRAMES else [])
    return [view for view in range(num_frames) if view not in held], held
