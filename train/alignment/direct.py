"""Cameras of frames from their pixels alone: direct alignment, for frames too small or smooth for features.

Poses and the depths of some pixels are found together, so that what stands at a pixel of one frame is found at its
place in the others: photometric bundle adjustment (Engel et al. 2018, DSO), dense in time and coarse to fine. The
commanded cameras are not needed; intrinsics are. What is ours: the stages, the starts, and the error bars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from configs.loader import Config
from data.cameras import Cameras
from train.alignment.pixels import AlignmentState, LookUp, PixelPairs, exposed
from train.alignment.step import (
    INVERSE_DEPTH_LIMITS,
    CalmPrior,
    DepthPrior,
    expose,
    misfit,
    normal_equations,
    robust_scale,
    solve,
)
from train.alignment.uncertainty import pose_covariance
from train.swept_depth import SweepConfig, swept_depth

BLUR = (0.25, 0.5, 0.25)
"""Frames are blurred so little, since looking up between pixels blurs too."""
STILL = "still"
SWEEP = SweepConfig(num_neighbours=8)
DEPTH_DEVIATION = 0.5
"""Inverse depths may well differ so much from those around them, in units in which most are about 1."""
PLANE_DEVIATION = 3.0
"""And so much from one plane, as long as nothing is known. Were it less, flat scenes seen from far apart would be
preferred."""
CALM = CalmPrior(math.radians(0.3))
FIRST_DAMPING, LARGEST_DAMPING = 1e-4, 1e3
RESCALE_EVERY = 3
DONE_BELOW = 3e-5
"""A stage is over when a step lowers the misfit by less than this share."""
MUCH_BETTER = 0.01
"""A later start is only taken where it leaves less unexplained by this share."""
SMOOTHING = 1 / 8
"""Depths are expected to be like those around them, this share of the height away."""


class AlignmentConfig(Config):
    """Sizes of the problem; seconds grow with each of them."""

    height: int = Field(64, ge=16, description="frames are aligned no larger than this [px]")
    keyframes: int = Field(5, ge=2, description="at the finest stage; twice as many before it")
    gap: int = Field(16, ge=2, description="keyframes are compared with frames so many places off")
    pixels: int = Field(2048, ge=64, description="of each keyframe at the finest stage")
    iterations: int = Field(10, gt=0, description="at most so many a stage")


@dataclass(frozen=True)
class Stage:
    """One scale of the problem.

    shrink: of the working size. stride: every so-many-th frame is a keyframe. gap, pixels: as in AlignmentConfig.
    width: of the robust function, in standard deviations of the residuals. from_nothing: whether all that is known
    is that cameras turn little and depths are about 1.
    """

    shrink: int
    stride: int
    gap: int
    pixels: int
    width: float = 1.0
    from_nothing: bool = False


@dataclass(frozen=True)
class Solution:
    """Poses, exposures and an inverse depth map of every frame, at whatever size it was found."""

    world_to_camera: Float[Tensor, "t 4 4"]
    gain: Float[Tensor, " t"]
    bias: Float[Tensor, " t"]
    maps: Float[Tensor, "t h w"]


@dataclass(frozen=True)
class Alignment:
    """What direct alignment found.

    cameras: float64, relative to the first frame, in an arbitrary unit in which depths are about 1.
    start: where the best solution started from.
    explained: share of the compared pixels' variance that alignment explains: 1 for frames that fit each other
        perfectly, about 0 for frames that have nothing to do with each other.
    moved_px: how far pixels move between keyframes and the frames compared with them, 90th percentile, working
        pixels.
    covariance: of the twists of all cameras but the first (see `train.alignment.step`), float64.
    pixels, state: the finest stage, for who asks what was found where.
    """

    cameras: Cameras
    start: str
    explained: float
    moved_px: float
    covariance: Float[Tensor, "free free"]
    pixels: PixelPairs
    state: AlignmentState


class Pyramid:
    """Blurred frames and their intrinsics at shrinking sizes."""

    def __init__(self, frames: Float[Tensor, "t 3 h w"], cameras: Cameras, height: int) -> None:
        self.height = min(height, cameras.height)
        self.width = max(8, round(cameras.width * self.height / cameras.height))
        self._frames, self._cameras = frames.float(), cameras
        self._levels: dict[int, tuple[Float[Tensor, "t 3 h w"], Cameras]] = {}

    def level(self, shrink: int) -> tuple[Float[Tensor, "t 3 h w"], Cameras]:
        """Frames and cameras at the working size over `shrink`."""
        if shrink not in self._levels:
            height, width = max(8, self.height // shrink), max(8, self.width // shrink)
            frames = self._frames
            if (height, width) != tuple(frames.shape[-2:]):
                frames = F.interpolate(frames, (height, width), mode="bilinear", antialias=True)
            self._levels[shrink] = _blurred(frames), self._cameras.resize(height, width)
        return self._levels[shrink]


def align_frames(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    config: AlignmentConfig,
    starts: Mapping[str, Cameras | None] | None = None,
) -> Alignment:
    """Cameras of at least three frames in [0, 1] of a still scene, found from the frames.

    cameras: only their intrinsics are used.
    starts: cameras to start from by name, in the order in which they are trusted, each in units in which the
        scene's median depth is about 1; None for a camera that stands still, which is also the default. A later
        start is only taken where it ends `MUCH_BETTER`.

    The same frames give the same cameras. There is no check here that the frames show anything.
    """
    assert len(frames) >= 3, f"{len(frames)} frames can't be aligned"
    pyramid = Pyramid(frames, cameras, config.height)
    coarse, middle, fine = _stages(len(frames), config)
    candidates = {}
    for name, first in (starts or {STILL: None}).items():
        if first is None:
            solution = _standing_still(len(frames), pyramid)
            for stage in coarse:
                solution = run_stage(solution, pyramid, stage, config.iterations)
            poses = solution.world_to_camera
        else:
            poses = first.to(torch.float64).relative_to(0).world_to_camera
        candidates[name] = _with_swept_depth(poses, pyramid)
        for stage in middle:
            candidates[name] = run_stage(candidates[name], pyramid, stage, config.iterations)
    start = _best(candidates, pyramid, middle[-1])
    solution = candidates[start]
    for stage in fine:
        solution = run_stage(solution, pyramid, stage, config.iterations)
    return _measured(solution, pyramid, fine[-1], start, cameras)


def run_stage(solution: Solution, pyramid: Pyramid, stage: Stage, iterations: int) -> Solution:
    """The solution after at most `iterations` damped steps at one scale."""
    pixels, state = _open_stage(solution, pyramid, stage)
    maps = pixels.dense(state.inverse_depth, 1.0)
    calm = CALM if stage.from_nothing else None
    if stage.from_nothing:
        prior = DepthPrior(torch.ones_like(state.inverse_depth), PLANE_DEVIATION)
    else:
        prior = DepthPrior(state.inverse_depth, DEPTH_DEVIATION)
    damping, scale, before = FIRST_DAMPING, 0.0, 0.0
    for iteration in range(iterations):
        if iteration % RESCALE_EVERY == 0:
            scale = stage.width * robust_scale(pixels, state)
            state = expose(pixels, state, scale)
            before = misfit(pixels, state, prior, scale, calm)
        equations = normal_equations(pixels, state, pixels.look_up(state), scale)
        if calm is not None:
            equations = calm.added_to(equations, state)
        moved = solve(equations, state, prior, damping)
        after = misfit(pixels, moved, prior, scale, calm)
        if not after < before:
            damping *= 20
            if damping > LARGEST_DAMPING:
                break
            continue
        done = before - after < DONE_BELOW * abs(before)
        state, damping = moved, damping / 10
        maps = _smoothed(
            pixels.dense(state.inverse_depth, 0.0), pixels.dense(equations.depths, 0.0)
        )
        if not stage.from_nothing:
            prior = DepthPrior(pixels.gather(maps), DEPTH_DEVIATION)
        before = misfit(pixels, state, prior, scale, calm)
        if done:
            break
    all_maps = _resized(solution.maps, maps.shape[-2:]).clone()
    all_maps[pixels.keyframes] = maps
    return Solution(state.world_to_camera, state.gain, state.bias, all_maps)


def _stages(
    num_frames: int, config: AlignmentConfig
) -> tuple[tuple[Stage, ...], tuple[Stage, ...], tuple[Stage, ...]]:
    """The stages from standing still, those that every start goes through, and the finest."""
    stride = max(1, -(-num_frames // (2 * config.keyframes)))
    gap, pixels = config.gap, config.pixels
    coarse = (
        Stage(4, 1, 2, pixels // 4, width=4.0, from_nothing=True),
        Stage(4, 1, 4, pixels // 4, width=3.0, from_nothing=True),
        Stage(2, stride, max(2, gap // 3), pixels // 3, width=2.0, from_nothing=True),
    )
    middle = (
        Stage(2, stride, max(2, gap // 3), pixels // 3),
        Stage(2, stride, gap, pixels // 3),
    )
    return coarse, middle, (Stage(1, 2 * stride, gap, pixels),)


def _open_stage(
    solution: Solution, pyramid: Pyramid, stage: Stage
) -> tuple[PixelPairs, AlignmentState]:
    frames, cameras = pyramid.level(stage.shrink)
    keyframes = list(range(0, len(frames), stage.stride))
    pixels = PixelPairs(frames, cameras, keyframes, stage.gap, stage.pixels)
    maps = _resized(solution.maps, frames.shape[-2:])[keyframes]
    state = AlignmentState(
        solution.world_to_camera, pixels.gather(maps), solution.gain, solution.bias
    )
    return pixels, state


def _standing_still(num_frames: int, pyramid: Pyramid) -> Solution:
    height, width = pyramid.level(4)[0].shape[-2:]
    return Solution(
        torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1),
        torch.ones(num_frames),
        torch.zeros(num_frames),
        torch.ones(num_frames, height, width),
    )


def _with_swept_depth(world_to_camera: Float[Tensor, "t 4 4"], pyramid: Pyramid) -> Solution:
    """A solution of these poses, with the depths that fit them best."""
    frames, lenses = pyramid.level(2)
    cameras = replace(lenses, world_to_camera=world_to_camera).to(torch.float32)
    depth = swept_depth(frames, cameras, SWEEP)
    low, high = INVERSE_DEPTH_LIMITS
    return Solution(
        world_to_camera,
        torch.ones(len(frames)),
        torch.zeros(len(frames)),
        (1 / depth).clamp(low, high),
    )


def _best(candidates: Mapping[str, Solution], pyramid: Pyramid, stage: Stage) -> str:
    """The start that explains most, where that is `MUCH_BETTER` than an earlier one.

    Not that of the lowest misfit: wrong cameras that see little in common, and that little smooth, have a low one.
    """
    best, least = "", float("inf")
    for name, solution in candidates.items():
        pixels, state = _open_stage(solution, pyramid, stage)
        unexplained = 1 - explained_share(pixels, state, pixels.look_up(state))
        if not best or unexplained < (1 - MUCH_BETTER) * least:
            best, least = name, unexplained
    return best


def _measured(
    solution: Solution, pyramid: Pyramid, stage: Stage, start: str, cameras: Cameras
) -> Alignment:
    pixels, state = _open_stage(solution, pyramid, stage)
    look = pixels.look_up(state)
    moved = (look.places - pixels.positions).norm(dim=-1)[look.seen]
    scale = robust_scale(pixels, state)
    return Alignment(
        cameras=replace(cameras.to(torch.float64), world_to_camera=solution.world_to_camera),
        start=start,
        explained=explained_share(pixels, state, look),
        moved_px=float(moved.double().quantile(0.9)) if len(moved) else 0.0,
        covariance=pose_covariance(pixels, state, look, scale, DEPTH_DEVIATION),
        pixels=pixels,
        state=state,
    )


def explained_share(pixels: PixelPairs, state: AlignmentState, look: LookUp) -> float:
    """Share of the compared pixels' variance that is explained by what they are compared with; see `Alignment`."""
    residuals = pixels.residuals(look, state).double()
    # At their exposures: a frame that was faded to one colour explains nothing.
    here = exposed(pixels.values, state, pixels.keys).double()
    variance = _variance(here, look.seen) + _variance(here + residuals, look.seen)
    squares = (residuals.square().sum(dim=1) * look.seen).sum()
    return 1 - float(squares / variance.clamp_min(1e-12))


def _variance(values: Float[Tensor, "p 3 n"], seen: Bool[Tensor, "p n"]) -> Float[Tensor, ""]:
    """The sum of squares about each pair's mean colour, over what is seen."""
    weights = seen[:, None].to(values)
    mean = (values * weights).sum(-1) / weights.sum(-1).clamp_min(1)
    return ((values - mean[..., None]).square() * weights).sum()


def _blurred(frames: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 3 h w"]:
    kernel = frames.new_tensor(BLUR)
    weights = (kernel[:, None] * kernel).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(frames, [1, 1, 1, 1], mode="replicate"), weights, groups=3)


def _resized(maps: Float[Tensor, "k h w"], size: torch.Size) -> Float[Tensor, "k h_ w_"]:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear")[:, 0]


def _smoothed(
    maps: Float[Tensor, "k h w"], weights: Float[Tensor, "k h w"]
) -> Float[Tensor, "k h w"]:
    """The weighted means around every pixel; where nothing is around, that of the whole map."""
    height, width = maps.shape[-2:]
    blur = [_gaussian_blur(size, max(1.0, SMOOTHING * height)) for size in (height, width)]
    weights = torch.where(maps > 0, weights + 1e-12, 0.0)
    total = weights.mean(dim=(1, 2), keepdim=True)
    overall = (weights * maps).mean(dim=(1, 2), keepdim=True) / total
    around = blur[0] @ weights @ blur[1].T
    sums = blur[0] @ (weights * maps) @ blur[1].T
    return (sums + 1e-4 * total * overall) / (around + 1e-4 * total)


def _gaussian_blur(size: int, deviation: float) -> Float[Tensor, "size size"]:
    """Rows that hold a Gaussian around each place, adding up to 1 within the picture."""
    places = torch.arange(size, dtype=torch.float32)
    near = torch.exp(-0.5 * ((places[:, None] - places) / deviation).square())
    return near / near.sum(dim=1, keepdim=True)
