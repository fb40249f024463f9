"""Depth maps of posed frames by plane sweep: where a fit from nothing puts its first Gaussians.

Geometry found from nothing is what limits a short fit. Every frame is compared with its neighbours along a ladder
of distances, first over the whole range, then over the range in which the frames' depths agreed with each other.
What agrees in the end is kept, and what does not is filled in from around it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from configs.loader import Config
from data.cameras import Cameras
from data.warping import look_up, unproject
from models.rendering.threads import run_pieces

UNSEEN_COST = 0.5
"""Cost of a distance at which no neighbour sees the pixel; colours are in [0, 1]."""
REDUCTIONS = (2, 2, 1)
"""The sweeps, by how much smaller than the last one's their frames are: the first only look for the range."""
KEPT_RANGE = (0.02, 0.98)
"""The next sweep spans these quantiles of the inverse distances that agreed in the one before,"""
MARGIN = 0.15
"""and so much more of their difference at both ends."""
LEAST_AGREEING = 0.02
"""Where less of all pixels agree, the range stays."""
AGREEING_PX = 1.0
"""Two frames agree on a point when their depths for it move it by less than this in one of them."""
LEAST_NEIGHBOURS = 2
"""So many neighbours have to agree with a pixel; one alone often does by chance where nothing fits."""
LEAST_PARALLAX_PX = 3.0
"""Frames so close together that all of the range moves a point by less than this can't agree or disagree."""


class SweepConfig(Config):
    """Range and resolution of the sweep. Distances are along rays, in scene units."""

    near: float = Field(0.15, gt=0)
    far: float = Field(100.0, gt=0)
    num_distances: int = Field(48, gt=2, description="evenly spaced in inverse distance")
    num_neighbours: int = Field(4, gt=0, description="frames that each is compared with")
    max_height: int = Field(64, gt=0, description="frames are swept no larger than this [px]")
    windows: tuple[int, ...] = Field(
        (3, 9, 27),
        description="costs are the mean of the averages over squares of these sides [px]",
    )


def swept_depth(
    frames: Float[Tensor, "v 3 h w"], cameras: Cameras, config: SweepConfig
) -> Float[Tensor, "v h w"]:
    """z-depth [scene units] at which each pixel looks most like its neighbours; known everywhere.

    Where the frames have no texture, or do not fit each other, it is a guess that a fit has to mend. A single
    frame, which has no neighbours, gets some depth within the range.
    """
    neighbours = nearest_neighbours(cameras, config.num_neighbours)
    limits = (1 / config.far, 1 / config.near)
    for reduction in REDUCTIONS:
        small, grid = _reduced(frames, cameras, -(-config.max_height // reduction))
        ladder = torch.linspace(*limits, config.num_distances)
        costs = sweep_costs(small, grid, neighbours, ladder)
        inverse = torch.stack([_best(one, ladder, config.windows) for one in costs])
        span = limits[1] - limits[0]
        agreeing = agreeing_frames(_forward(grid) / inverse, grid, neighbours, span)
        agree = agreeing >= min(LEAST_NEIGHBOURS, neighbours.shape[1])
        if float(agree.float().mean()) >= LEAST_AGREEING:
            known = inverse[agree]
            bounds = torch.tensor(KEPT_RANGE).to(known)
            low, high = torch.quantile(known[:: 1 + len(known) // 100_000], bounds).tolist()
            margin = MARGIN * (high - low) + 0.01 * span
            limits = (max(limits[0], low - margin), min(limits[1], high + margin))
    inverse = fill_in(inverse, agree)
    size = (cameras.height, cameras.width)
    fine = F.interpolate(inverse[:, None], size, mode="bilinear")[:, 0]
    return (_forward(cameras) / fine).to(frames.dtype)


def nearest_neighbours(cameras: Cameras, count: int) -> Int[Tensor, "v n"]:
    """The views nearest to each one, by the move of the camera and of what stands one unit ahead of it."""
    to_world = cameras.camera_to_world.double()
    centres, forward = to_world[:, :3, 3], to_world[:, :3, 2]
    marks = torch.cat([centres, centres + forward], dim=1)
    distances = torch.cdist(marks, marks).fill_diagonal_(torch.inf)
    return distances.argsort(dim=1, stable=True)[:, : min(count, cameras.num_views - 1)]


def sweep_costs(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    neighbours: Int[Tensor, "v n"],
    inverse: Float[Tensor, " k"],
) -> list[Float[Tensor, "k h w"]]:
    """Each view's mean absolute colour difference to its neighbours, were its surface at each inverse distance."""
    from models.plane_sweep_cpu import sweep_costs as sweep_kernel

    num_views, _, height, width = frames.shape
    images = F.pad(frames.movedim(1, -1).float(), (0, 1)).contiguous().numpy()
    rays = cameras.rays()[1].float().flatten(1, 2).contiguous().numpy()
    to_image = (cameras.intrinsics @ cameras.world_to_camera[:, :3, :])[neighbours]
    turns = to_image[..., :3]
    starts = (turns @ cameras.positions[:, None, :, None])[..., 0] + to_image[..., 3]
    turns_array = turns.float().contiguous().numpy()
    starts_array = starts.float().contiguous().numpy()
    chosen = neighbours.numpy()
    # The kernel compares frame 0 of a small clip with the frames after it.
    places = np.arange(1, chosen.shape[1] + 1)
    costs = [torch.empty(1, 1, len(inverse), height * width) for _ in range(num_views)]

    def sweep(first: int, last: int) -> None:
        for view in range(first, last):
            sweep_kernel(
                0,
                1,
                images[[view, *chosen[view]]][None],
                rays[view][None, None],
                turns_array[view][None, None],
                starts_array[view][None, None],
                inverse.float().numpy(),
                places,
                np.float32(UNSEEN_COST),
                costs[view].numpy(),
            )

    run_pieces(sweep, num_views)
    return [one[0, 0].unflatten(-1, (height, width)) for one in costs]


def agreeing_frames(
    depth: Float[Tensor, "v h w"],
    cameras: Cameras,
    neighbours: Int[Tensor, "v n"],
    inverse_range: float,
) -> Int[Tensor, "v h w"]:
    """How many neighbours have, where they see a pixel's point, that point's depth too.

    inverse_range: the largest difference of inverse depths that there is. Neighbours so near that it hardly
    moves a point are not asked.
    """
    points = unproject(cameras, depth)
    agreeing = torch.zeros(depth.shape, dtype=torch.long)
    positions, focal_px = cameras.positions, cameras.intrinsics[:, 0, 0]
    for other in neighbours.T:
        theirs = cameras.select(other)
        found, shown = look_up(depth[other][:, None], theirs, points)
        axis = theirs.world_to_camera[:, 2]
        theirs_z = torch.einsum("vj,vhwj->vhw", axis[:, :3], points) + axis[:, 3, None, None]
        parallax_px = focal_px[other] * (positions - positions[other]).norm(dim=-1)
        apart = (1 / found[:, 0] - 1 / theirs_z).abs() * parallax_px[:, None, None]
        asked = (parallax_px * inverse_range > LEAST_PARALLAX_PX)[:, None, None]
        agreeing += shown & asked & (apart < AGREEING_PX)
    return agreeing


def fill_in(values: Float[Tensor, "v h w"], known: Bool[Tensor, "v h w"]) -> Float[Tensor, "v h w"]:
    """The values where known, and elsewhere the mean of the known ones around, as near as there are any.

    A view in which none is known keeps its values.
    """
    weight = known.to(values)
    filled, level = values * weight, weight
    sums, weights = filled[:, None], weight[:, None]
    while bool((level == 0).any()) and max(sums.shape[-2:]) > 1:
        sums = F.avg_pool2d(sums, 2, ceil_mode=True)
        weights = F.avg_pool2d(weights, 2, ceil_mode=True)
        mean = sums / weights.clamp_min(1e-12)
        size = values.shape[-2:]
        coarse, some = (F.interpolate(x, size, mode="nearest")[:, 0] for x in (mean, weights))
        new = (level == 0) & (some > 0)
        filled, level = torch.where(new, coarse, filled), torch.where(new, 1.0, level)
    return torch.where(level > 0, filled, values)


def _reduced(
    frames: Float[Tensor, "v 3 h w"], cameras: Cameras, max_height: int
) -> tuple[Float[Tensor, "v 3 small_h small_w"], Cameras]:
    """The frames, by area, no higher than that, and their cameras."""
    height = max(2, min(cameras.height, max_height))
    width = max(2, round(cameras.width * height / cameras.height))
    return F.interpolate(frames, (height, width), mode="area"), cameras.resize(height, width)


def _forward(cameras: Cameras) -> Float[Tensor, "v h w"]:
    """What a step of one along each pixel's ray adds to the z-depth."""
    _, directions = cameras.rays()
    return torch.einsum("vj,vhwj->vhw", cameras.world_to_camera[:, 2, :3], directions)


def _best(
    costs: Float[Tensor, "k h w"], inverse: Float[Tensor, " k"], windows: tuple[int, ...]
) -> Float[Tensor, "h w"]:
    """The inverse distance of least cost, averaged over windows, refined by a parabola."""
    averaged = torch.stack([_box_mean(costs, side) for side in windows]).mean(dim=0)
    best = averaged.argmin(dim=0).clamp(1, len(inverse) - 2)
    left, middle, right = (averaged.gather(0, (best + i)[None])[0] for i in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp_min(1e-9)
    step = (0.5 * (left - right) / bend).clamp(-1, 1)
    return inverse[best] + step * (inverse[1] - inverse[0])


def _box_mean(costs: Float[Tensor, "k h w"], side: int) -> Float[Tensor, "k h w"]:
    """Means over squares around each pixel, cut off at the borders."""
    down, across = (_box(length, side) for length in costs.shape[-2:])
    return down @ (costs @ across.T)


def _box(length: int, side: int) -> Float[Tensor, "length length"]:
    near = (torch.arange(length)[:, None] - torch.arange(length)).abs() <= side // 2
    return near.float() / near.sum(dim=1, keepdim=True)
