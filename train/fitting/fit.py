"""Gaussians fitted to posed frames by gradient.

It serves as the baseline that a feed-forward model is held to, to polish what such a model predicted, to measure 3D
consistency, and to make scenes of captures. Loss and the division of learning rates follow Kerbl et al. 2023 (3DGS);
the rates themselves are ours, since scenes here have median depth 1 and runs are a few hundred steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.render import render
from train.fitting.losses import depth_loss, opacity_loss, photometric_loss
from train.fitting.optimiser import OptimiserConfig, SceneOptimiser
from train.fitting.poses import PoseConfig, PoseCorrections
from train.fitting.resolution import Pyramid, ResolutionConfig


class FitConfig(OptimiserConfig):
    """How long and how fast to fit."""

    seconds: float | None = Field(
        None, gt=0, description="stop after this long; repeatable only without it"
    )
    views_per_step: int = Field(4, gt=0)
    ssim_weight: float = Field(0.2, ge=0, le=1, description="weight of 1 - SSIM beside L1")
    background: float = Field(0.5, ge=0, le=1, description="grey behind the Gaussians")
    resolution: ResolutionConfig = ResolutionConfig()
    poses: PoseConfig | None = Field(
        None, description="optimise the cameras with the scene; None takes them as exact"
    )
    depth_weight: float = Field(
        0.0, ge=0, description="of the difference of inverse depths, where depths are given"
    )
    opacity_weight: float = Field(0.0, ge=0, description="of the mean opacity")


@dataclass(frozen=True)
class FitStep:
    """What the progress callback is told: the step just done and the state it left."""

    step: int
    loss: float
    num_gaussians: int
    seconds: float


@dataclass(frozen=True)
class FittedScene:
    """What a fit found. cameras: as given, or where they were moved to."""

    gaussians: Gaussians
    cameras: Cameras


def fit_gaussians(
    initial: Gaussians,
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    config: FitConfig,
    generator: torch.Generator,
    on_step: Callable[[FitStep], None] | None = None,
) -> Gaussians:
    """The scene of `fit_scene`."""
    return fit_scene(initial, frames, cameras, config, generator, on_step=on_step).gaussians


def fit_scene(
    initial: Gaussians,
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    config: FitConfig,
    generator: torch.Generator,
    *,
    depth: Float[Tensor, "v h w"] | None = None,
    on_step: Callable[[FitStep], None] | None = None,
) -> FittedScene:
    """The scene that fits `frames` best after `config.iterations` steps from `initial` (unbatched).

    frames: in [0, 1], one a view of `cameras`. Views are drawn without replacement, round after round, from
    `generator`, so equal seeds give equal scenes. depth: z-depths [scene units], 0 where unknown, for
    `config.depth_weight`. Raises UserError where there is nothing to start from or frames and cameras differ in
    number.
    """
    if len(frames) != cameras.num_views:
        raise UserError(f"fit: {len(frames)} frames but {cameras.num_views} cameras")
    scene = SceneOptimiser(initial, config, generator)
    poses = None if config.poses is None else PoseCorrections(cameras, config.poses)
    pyramid = Pyramid(frames, cameras, depth, config.resolution)
    background = frames.new_full((3,), config.background)
    order: list[int] = []
    started = time.monotonic()
    for step in range(config.iterations):
        elapsed = time.monotonic() - started
        progress = step / config.iterations
        if config.seconds is not None:
            if elapsed >= config.seconds:
                break
            progress = max(progress, elapsed / config.seconds)
        while len(order) < min(config.views_per_step, len(frames)):
            order += torch.randperm(len(frames), generator=generator).tolist()
        views, order = order[: config.views_per_step], order[config.views_per_step :]

        level = pyramid.at(progress)
        seen_by = level.cameras.select(views)
        if poses is not None:
            seen_by = poses.corrected(level.cameras, views)
        gaussians, trace = scene.gaussians(), scene.trace()
        drawn = render(gaussians, seen_by, background=background, trace=trace)
        loss = photometric_loss(drawn.frames, level.frames[views], config.ssim_weight)
        if config.depth_weight and level.depth is not None:
            loss = loss + config.depth_weight * depth_loss(drawn, level.depth[views])
        if config.opacity_weight:
            loss = loss + config.opacity_weight * opacity_loss(gaussians.opacities)
        scene.step(loss, progress, trace, (seen_by.height, seen_by.width))
        if poses is not None:
            poses.step(progress, config.final_rate**progress)
        if on_step is not None:
            seconds = time.monotonic() - started
            on_step(FitStep(step, loss.item(), scene.num_gaussians, seconds))
    return FittedScene(scene.gaussians().detach(), cameras if poses is None else poses.cameras())
