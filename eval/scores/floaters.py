"""Floaters: Gaussians that hang in space which the true views see through."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from data.cameras import Cameras
from models.gaussians import Gaussians

TOLERANCE = 0.1
"""A Gaussian that is nearer than the true surface by less than this share of its depth counts as on it."""


def floater_share(
    gaussians: Gaussians,
    cameras: Cameras,
    depth: Float[Tensor, "v h w"],
    tolerance: float = TOLERANCE,
) -> float | None:
    """The share of the Gaussians' mass that some view would see through, 0 to 1; None where no depth is known there.

    depth: true z-depth in scene units, 0 or not finite where unknown. Mass is opacity times the area of the two
    longest axes. Only mass that falls on a pixel of known depth in some view is looked at; at a pixel, the nearest
    surface within one pixel around it counts, so that what lies on an edge is not taken for a floater. What lies
    behind surfaces is not known to be wrong. The definition is ours.
    """
    means = gaussians.means
    known = torch.isfinite(depth) & (depth > 0)
    # The nearest of a pixel's neighbours: a maximum of inverse depths; unknown ones are 0.
    inverse = torch.where(known, 1 / depth.clamp_min(1e-12), torch.zeros_like(depth))
    nearest = F.max_pool2d(inverse[:, None], 3, stride=1, padding=1)[:, 0]
    pixels, z = cameras.project(means)
    column, row = pixels.floor().unbind(-1)
    inside = (
        (z > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
    )
    place = torch.where(inside, row * cameras.width + column, 0).long()
    here = known.flatten(1).gather(1, place) & inside
    surface = nearest.flatten(1).gather(1, place)
    in_front = here & (z * surface < 1 - tolerance)
    longest = gaussians.scales.topk(2, dim=-1).values
    mass = gaussians.opacities.double() * longest.double().prod(dim=-1)
    seen = mass[here.any(dim=0)].sum()
    return float(mass[in_front.any(dim=0)].sum() / seen) if float(seen) > 0 else None
