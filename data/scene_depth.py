"""How far away a scene is, told from its frames: the unit of length of captures that carry no depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from data.warping import look_up, plane_points

GAPS = (1, 2, 4)
"""Frames are compared with those so many places on: small gaps for overlap, large ones for parallax."""
MIN_OVERLAP = 0.4
MIN_GAIN = 0.05
"""A depth counts as found where it lowers the difference by this share against a plane far away."""
RANGE, NUM_DEPTHS = (0.5, 200.0), 40
"""Depths tried, in units of the typical step between frames that are compared."""


def sweep_depth(frames: Float[Tensor, "t 3 h w"], cameras: Cameras) -> float | None:
    """The depth [units of the cameras] of one plane that explains best how neighbouring frames differ.

    For each depth of a geometric grid every frame is looked up from its neighbours as if the scene stood
    there, which gives a mean absolute difference. Of all gaps and depths the one is returned that gains
    most against a plane far away. None where none gains `MIN_GAIN`: the camera hardly moved, or nothing
    fits. Ours.
    """
    found = [_sweep(frames, cameras, gap) for gap in GAPS if gap < len(frames)]
    gain, depth = max(found, default=(0.0, 0.0))
    return depth if gain >= MIN_GAIN else None


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
    far_away = max(errors[-1], 1e-9)
    return 1 - errors[best] / far_away, depths[best]


def _difference(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    sources: list[int],
    targets: list[int],
    depth: float,
) -> float:
    """Mean over the pairs of the mean absolute difference where both frames show the plane.

    Pairs that overlap too little count as if they differed by the spread of the frames' colours.
    """
    seen_from, seen_by = cameras.select(sources), cameras.select(targets)
    distances = seen_from.world_to_camera.new_full((len(sources),), depth)
    found, shown = look_up(frames[sources], seen_from, plane_points(seen_from, seen_by, distances))
    difference = (found - frames[targets]).abs().mean(dim=1)
    overlap = shown.float().mean(dim=(1, 2))
    mean = (difference * shown).sum(dim=(1, 2)) / shown.sum(dim=(1, 2)).clamp(min=1)
    return float(torch.where(overlap >= MIN_OVERLAP, mean, frames.std()).mean())
