"""Epipolar geometry of two cameras: where a point of one picture may lie in another."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras, skew
from eval.cameras.path_error import NO_SPAN

ROUNDING = 1e-13
"""A share of the fundamental matrix that may be rounding."""


def fundamental_matrix(first: Cameras, second: Cameras) -> Float[Tensor, "3 3"]:
    """F with x2^T F x1 = 0 for the pixel positions x1, x2 of a point in two cameras (one view each); float64.

    Zero where both cameras stand in the same place.
    """
    relative = second.world_to_camera[0].double() @ first.camera_to_world[0].double()
    inverse = [torch.linalg.inv(camera.intrinsics[0].double()) for camera in (first, second)]
    return inverse[1].mT @ skew(relative[:3, 3]) @ relative[:3, :3] @ inverse[0]


def symmetric_epipolar_distances(
    fundamental: Float[Tensor, "3 3"], first: Float[Tensor, "m 2"], second: Float[Tensor, "m 2"]
) -> Float[Tensor, " m"]:
    """Mean of both points' distances from their epipolar lines [px].

    As the authors of TSED compute it (Yu et al. 2023, arXiv 2304.10700). A point at the epipole lies on every
    line: its distance is 0.
    """
    one = torch.cat([first, torch.ones_like(first[:, :1])], dim=1)
    two = torch.cat([second, torch.ones_like(second[:, :1])], dim=1)
    lines_two, lines_one = one @ fundamental.mT, two @ fundamental
    residual = (two * lines_two).sum(-1).abs()
    noise = ROUNDING * fundamental.norm()
    return (
        _over(residual, lines_two, noise * one.norm(dim=-1))
        + _over(residual, lines_one, noise * two.norm(dim=-1))
    ) / 2


def matched_distances(
    first: Cameras,
    second: Cameras,
    points: tuple[Float[Tensor, "m 2"], Float[Tensor, "m 2"]],
) -> Float[Tensor, " m"]:
    """How far matched points are [px] from where two cameras (one view each) allow them to be.

    The symmetric epipolar distance. Cameras that stand in one place have no epipolar geometry: there a point has
    one place in the other picture, and the distance from it is taken, both ways and averaged. That part is ours.
    """
    if not baseline_is_zero(first, second):
        return symmetric_epipolar_distances(fundamental_matrix(first, second), *points)
    rotation = (second.world_to_camera[0] @ first.camera_to_world[0]).double()[:3, :3]
    inner = [camera.intrinsics[0].double() for camera in (first, second)]
    there = inner[1] @ rotation @ torch.linalg.inv(inner[0])
    forward = (_transferred(there, points[0]) - points[1]).norm(dim=-1)
    back = (_transferred(torch.linalg.inv(there), points[1]) - points[0]).norm(dim=-1)
    # A point that is taken behind the camera is not in the picture at all.
    return ((forward + back) / 2).clamp(max=math.hypot(second.height, second.width))


def baseline_is_zero(first: Cameras, second: Cameras) -> bool:
    """Whether two cameras stand in the same place, but for rounding."""
    centres = [camera.positions[0].double() for camera in (first, second)]
    limit = NO_SPAN * max(1.0, *(float(centre.norm()) for centre in centres))
    return float((centres[0] - centres[1]).norm()) <= limit


def _over(
    residual: Float[Tensor, " m"], lines: Float[Tensor, "m 3"], noise: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """|l . x| over the length of the line's normal; 0 where there is no line but for rounding."""
    length = lines[:, :2].norm(dim=-1)
    return torch.where(length > noise, residual / length.clamp_min(1e-300), 0.0)


def _transferred(
    homography: Float[Tensor, "3 3"], points: Float[Tensor, "m 2"]
) -> Float[Tensor, "m 2"]:
    """Where a homography takes points; infinitely far for those that it takes behind the camera."""
    there = torch.cat([points, torch.ones_like(points[:, :1])], dim=1) @ homography.mT
    ahead = there[:, 2:] > 0
    return torch.where(ahead, there[:, :2] / there[:, 2:].clamp_min(1e-300), torch.inf)
