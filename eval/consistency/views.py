"""What a consistency score looks at: which views are fitted and which judged, and what else tells how to read it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip, scene_scale
from data.scene_depth import sweep_depth
from data.warping import unproject
from eval.images.frame_checks import check_frames
from eval.images.metrics import psnr
from eval.scores.baselines import copy_nearest
from train.randomness import derive_seed

INPUT = 0
"""The input view is a clip's first frame."""
LEAST_VIEWS = 5
"""With fewer there is nothing to fit, or nothing to hold out between the fitted ones."""
LEAST_SIDE = 16
LEAST_SHARPNESS = 1e-3
"""A quarter of a step of 8 bits."""
COARSE = 24
"""Overlap is told on a grid of so many rows,"""
OVERLAP_DEPTH = 2.0
"""for a scene at this depth: the unit is a sweep's, which is right to about this factor."""


def prepare_clip(clip: Clip, max_height: int, max_views: int) -> Clip:
    """The clip as it is scored: checked, at most so high and so many views, about 1 from its scene.

    Taller frames are reduced by area, cameras with them; of more views so many are taken, evenly spread, the first
    among them. Cameras are relative to the first, and the unit of length is the depth that a plane sweep finds in
    the frames, or a guess from the cameras alone where it finds none. So neither the place of the origin nor the
    unit matters.

    Raises UserError where frames or cameras cannot be scored.
    """
    check_frames(clip.frames, clip.source, LEAST_VIEWS)
    clip.cameras.validate(clip.source)
    if min(clip.frames.shape[-2:]) < LEAST_SIDE:
        height, width = clip.frames.shape[-2:]
        raise UserError(
            f"{clip.source}: frames are {height}x{width}; expected at least {LEAST_SIDE} px a side"
        )
    if sharpness(clip.frames) < LEAST_SHARPNESS:
        raise UserError(
            f"{clip.source}: every frame is of one colour; there is nothing in them that could agree"
        )
    if clip.num_frames > max_views:
        steps = torch.linspace(0, clip.num_frames - 1, max_views, dtype=torch.float64)
        clip = clip.select(steps.round().long().tolist())
    frames, cameras = clip.frames.float(), clip.cameras.to(torch.float64)
    if cameras.height > max_height:
        width = max(1, round(cameras.width * max_height / cameras.height))
        frames = F.interpolate(frames, (max_height, width), mode="area")
        cameras = cameras.resize(max_height, width)
    cameras = cameras.relative_to(INPUT)
    # Captures' units are arbitrary: the sweep computes in float32.
    guess = scene_scale(cameras)
    found = sweep_depth(frames, cameras.rescaled(guess).to(torch.float32))
    scale = guess if found is None else guess * found
    return replace(
        clip,
        frames=frames.clamp(0, 1),
        cameras=cameras.rescaled(scale).to(torch.float32),
        depth=None,
        scale=clip.scale * scale,
    )


def held_out_views(num_views: int, every: int, seed: int = 0) -> list[int]:
    """Every so-manieth view, each with fitted ones before and after it; never the input view.

    The seed moves the pattern along, so that `every` seeds together hold out every view that can be.
    """
    inner = range(1, num_views - 1)
    chosen = [view for view in inner if (view - every // 2 - seed) % every == 0]
    return chosen or [num_views // 2]


def shuffled_cameras(cameras: Cameras, seed: int) -> Cameras:
    """The same cameras dealt out anew: no view but the input, which keeps its own, has its own."""
    generator = torch.Generator().manual_seed(derive_seed("shuffled cameras", seed))
    others = torch.arange(1, cameras.num_views)
    while True:
        dealt = others[torch.randperm(len(others), generator=generator)]
        if not bool((dealt == others).any()):
            return cameras.select([INPUT, *dealt.tolist()])


def overlap(cameras: Cameras, judged: int, fitted: list[int]) -> float:
    """The share of a view that some fitted view shows too, did all stand at `OVERLAP_DEPTH`."""
    coarse = cameras.resize(COARSE, max(1, round(COARSE * cameras.width / cameras.height)))
    here = coarse.select(judged)
    depth = here.intrinsics.new_full((1, coarse.height, coarse.width), OVERLAP_DEPTH)
    points = unproject(here, depth)
    pixels, ahead = coarse.select(fitted).project(points.flatten(0, 2))
    size = pixels.new_tensor([coarse.width, coarse.height])
    inside = ((pixels >= 0) & (pixels <= size)).all(-1) & (ahead > 0)
    return float(inside.any(dim=0).float().mean())


def copy_psnr(clip: Clip, judged: list[int], fitted: list[int]) -> float:
    """What copying the nearest fitted view would score [dB]: high where the frames hardly differ."""
    copied = copy_nearest(
        clip.frames[fitted], clip.cameras.select(fitted), clip.cameras.select(judged)
    )
    return float(psnr(copied, clip.frames[judged]).mean())


def sharpness(frames: Float[Tensor, "t 3 h w"]) -> float:
    """RMS difference between pixels side by side, the mean over frames: what blur takes away."""
    across = (frames[..., 1:] - frames[..., :-1]).square().mean(dim=(1, 2, 3))
    down = (frames[..., 1:, :] - frames[..., :-1, :]).square().mean(dim=(1, 2, 3))
    return float(((across + down) / 2).sqrt().mean())


def motion(frames: Float[Tensor, "t 3 h w"]) -> float:
    """RMS difference between one frame and the next, the mean over pairs: what standing still takes away."""
    return float((frames[1:] - frames[:-1]).square().mean(dim=(1, 2, 3)).sqrt().mean())
