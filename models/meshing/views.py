"""From where a scene is looked at to make a mesh of it: along its own path and a little beside, or all around it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.camera_interpolation import interpolate_cameras
from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians

AROUND_FOV_DEG = 40.0
AROUND_MARGIN = 1.1
"""How much larger than the scene's ball the views from all around are."""
TURNTABLE_RISE_DEG = 20.0
MASS_INSIDE = 0.99
"""The ball that views from all around look at holds this share of the opacity, weighted with areas."""


def path_views(path: Cameras, num_views: int) -> Cameras:
    """Up to `num_views` cameras evenly along a path; all of its own where it has no more."""
    if path.num_views <= num_views:
        return path
    return interpolate_cameras(path, torch.linspace(0, path.num_views - 1, num_views))


def views_beside(
    path: Cameras, depths: Float[Tensor, " v"], num_views: int, share: float
) -> Cameras:
    """`num_views` cameras beside a path, to its right, left, above and below in turn, each looking at the same point
    ahead as the one that it stands beside.

    depths: how far ahead that point is for each camera [scene units]. share: how far beside they stand, of that.
    """
    chosen = torch.linspace(0, path.num_views - 1, num_views).round().long()
    sides = path.world_to_camera.new_tensor([[1.0, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]])
    to_world = path.camera_to_world[chosen]
    ahead = depths.to(to_world)[chosen]
    offset = share * ahead[:, None] * sides[torch.arange(num_views) % len(sides)]
    # In the camera's own axes it moves to `offset` and turns to look at (0, 0, ahead).
    forward = torch.nn.functional.normalize(
        torch.stack([-offset[:, 0], -offset[:, 1], ahead], dim=1), dim=1
    )
    down = to_world.new_tensor([0.0, 1, 0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=1)
    moved = torch.eye(4).to(to_world).repeat(num_views, 1, 1)
    moved[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    moved[:, :3, 3] = offset
    beside = path.select(chosen)
    return Cameras.from_camera_to_world(
        to_world @ moved, beside.intrinsics, path.height, path.width
    )


def views_around(gaussians: Gaussians, num_views: int, height: int, width: int) -> Cameras:
    """`num_views` pictures of all of a scene, from evenly spread directions (a Fibonacci lattice).

    height, width: pixels. Raises UserError where the scene has no extent to look at.
    """
    number = torch.arange(num_views, dtype=torch.float64) + 0.5
    level, turn = 1 - 2 * number / num_views, math.pi * (1 + math.sqrt(5)) * number
    wide = (1 - level.square()).sqrt()
    outward = torch.stack([wide * turn.cos(), level, wide * turn.sin()], dim=1)
    return _looking_inward(gaussians, outward, height, width)


def turntable(gaussians: Gaussians, num_views: int, height: int, width: int) -> Cameras:
    """`num_views` pictures once around a scene, from a little above. Arguments as for `views_around`."""
    turn = 2 * math.pi * torch.arange(num_views, dtype=torch.float64) / num_views
    rise = torch.full_like(turn, -math.tan(math.radians(TURNTABLE_RISE_DEG)))
    outward = torch.stack([turn.sin(), rise, -turn.cos()], dim=1)
    return _looking_inward(gaussians, torch.nn.functional.normalize(outward, dim=1), height, width)


def _looking_inward(
    gaussians: Gaussians, outward: Float[Tensor, "v 3"], height: int, width: int
) -> Cameras:
    """Upright cameras from unit directions, so far away that all of the scene shows."""
    centre, radius = ball(gaussians)
    forward = -outward
    down = forward.new_tensor([0.0, 1, 0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=1)
    to_world = torch.eye(4, dtype=torch.float64).repeat(len(outward), 1, 1)
    to_world[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    distance = AROUND_MARGIN * radius / math.sin(math.radians(AROUND_FOV_DEG) / 2)
    to_world[:, :3, 3] = centre + distance * outward
    side = min(height, width)
    lens = intrinsics_from_fov(AROUND_FOV_DEG, side, side)
    lens[:2, 2] = torch.tensor([width / 2, height / 2])
    return Cameras.from_camera_to_world(
        to_world.float(), lens.expand(len(outward), 3, 3), height, width
    )


def ball(gaussians: Gaussians) -> tuple[Float[Tensor, " 3"], float]:
    """Centre and radius, float64, of a ball that holds nearly all of a scene's opacity; see `MASS_INSIDE`."""
    scene = gaussians.detach().to("cpu").to(torch.float64)
    areas = scene.scales.sort(dim=1).values[:, 1:].prod(dim=1)
    mass = scene.opacities * areas
    centre = torch.stack([_quantile(scene.means[:, axis], mass, 0.5) for axis in range(3)])
    away = (scene.means - centre).norm(dim=1) + 2 * scene.scales.amax(dim=1)
    radius = float(_quantile(away, mass, MASS_INSIDE))
    if not (math.isfinite(radius) and radius > 0):
        raise UserError(f"the scene has no extent to look at (its radius is {radius:g})")
    return centre, radius


def _quantile(
    values: Float[Tensor, " n"], weights: Float[Tensor, " n"], share: float
) -> Float[Tensor, ""]:
    order = values.argsort()
    total = weights[order].cumsum(0)
    return values[order][
        int(torch.searchsorted(total, share * total[-1]).clamp(max=len(order) - 1))
    ]
