"""How far away a scene is, told from its frames: the unit of length of captures that carry no depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from data.cameras import Cameras
from data.warping import look_up, plane_points

GAPS = (1, 2, 4)
"""Frames are compared with those so many places on: the first gap that tells a depth decides."""
MIN_OVERLAP = 0.4
UNRELATED = 1.25
"""Pairs that overlap less count as if they differed by so many standard deviations, a little more than
unrelated pictures do (1.13 for normally distributed colours)."""
MIN_GAIN = 0.07
"""A depth counts as found where it lowers the difference by this share against a plane far away."""
LEAST_DIFFERENCE = 1e-6
"""Frames that differ by less than this are the same, and tell no depth: as if all were far away."""
RANGE, NUM_DEPTHS = (0.5, 200.0), 40
"""Depths tried, in units of the typical step between frames that are compared."""
HEIGHT = 32
BLUR = (0.06, 0.24, 0.4, 0.24, 0.06)
"""Frames are compared this small [px] and a little blurred (sigma 1 px): looking up between pixels blurs
too, and would else make any depth look better than none."""


def sweep_depth(frames: Float[Tensor, "t 3 h w"], cameras: Cameras) -> float | None:
    """The depth [units of the cameras] of one plane that explains best how neighbouring frames differ.

    For each depth of a geometric grid every frame is looked up from its neighbour as if the scene stood
    there; the depth with the least mean absolute difference is returned. None where none gains `MIN_GAIN`
    on a plane far away: the camera hardly moved, or nothing fits. Of 30 procedural scenes 25 came within
    a factor of 1.5 of their median depth and 29 within 2. Ours.
    """
    small, cameras = _shrink(frames, cameras)
    for gap in GAPS:
        if gap < len(frames):
            gain, depth = _sweep(small, cameras, gap)
            if gain >= MIN_GAIN:
                return depth
    return None


def _shrink(
    frames: Float[Tensor, "t 3 h w"], cameras: Cameras
) -> tuple[Float[Tensor, "t 3 small_h small_w"], Cameras]:
    height = min(HEIGHT, cameras.height)
    width = max(1, round(cameras.width * height / cameras.height))
    small = functional.interpolate(frames, (height, width), mode="area")
    kernel = frames.new_tensor(BLUR)
    padded = functional.pad(small, [len(BLUR) // 2] * 4, mode="replicate")
    weights = (kernel[:, None] * kernel).expand(3, 1, -1, -1)
    return functional.conv2d(padded, weights, groups=3), cameras.resize(height, width)


def _sweep(frames: Float[Tensor, "t 3 h w"], cameras: Cameras, gap: int) -> tuple[float, float]:
    """The largest share by which a depth lowers the difference, and that depth."""
    sources, targets = list(range(len(frames) - gap)), list(range(gap, len(frames)))
    positions = cameras.positions
    step = float((positions[sources] - positions[targets]).norm(dim=-1).median())
    if step <= 0:
        return 0.0, 0.0
    low, high = RANGE
    depths = [step * low * (high / low) ** (i / (NUM_DEPTHS - 1)) for i in range(NUM_DEPTHS)]
    errors = [_difference(frames, cameras, sources, targets, depth) for depth in depths]
    best = min(range(NUM_DEPTHS), key=errors.__getitem__)
    if errors[-1] < LEAST_DIFFERENCE:
        return 0.0, 0.0
    return 1 - errors[best] / errors[-1], depths[best]


def _difference(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    sources: list[int],
    targets: list[int],
    depth: float,
) -> float:
    """Mean over the pairs of the mean absolute difference where both frames show the plane.

    Pairs that overlap too little count as `UNRELATED`.
    """
    seen_from, seen_by = cameras.select(sources), cameras.select(targets)
    distances = seen_from.world_to_camera.new_full((len(sources),), depth)
    found, shown = look_up(frames[sources], seen_from, plane_points(seen_from, seen_by, distances))
    difference = (found - frames[targets]).abs().mean(dim=1)
    overlap = shown.float().mean(dim=(1, 2))
    mean = (difference * shown).sum(dim=(1, 2)) / shown.sum(dim=(1, 2)).clamp(min=1)
    return float(torch.where(overlap >= MIN_OVERLAP, mean, UNRELATED * frames.std()).mean())
