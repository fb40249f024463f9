"""How far the poses of direct alignment can be trusted: their covariance.

Neighbouring pixels, colours, and the frames that one pixel is looked up in err together, so the inverse of the
normal equations would promise far too much. Residuals are therefore added up by squares of a keyframe, and only
those taken as independent (the sandwich estimator, clustered; Cameron and Miller 2015).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import invert_rigid
from train.alignment.pixels import AlignmentState, LookUp, PixelPairs
from train.alignment.step import normal_equations, pixel_slopes, rigid_exponential

SQUARE_PX = 8
"""Side of the squares [px] whose residuals are taken as independent of each other's."""


def pose_covariance(
    pixels: PixelPairs,
    state: AlignmentState,
    look: LookUp,
    scale: float,
    depth_deviation: float,
) -> Float[Tensor, "free free"]:
    """Covariance of the twists of all frames but the first, the overall scale held fixed; float64."""
    equations = normal_equations(pixels, state, look, scale)
    depths = equations.depths + 1 / depth_deviation**2
    cross = equations.cross / depths[..., None]
    reduced = equations.poses - torch.einsum("kni,knj->ij", equations.cross, cross).double()
    # Scaling the scene changes no picture: that direction is no error, and would drown the others.
    along = scale_direction(state.world_to_camera)
    reduced = reduced + reduced.diagonal().mean() * torch.outer(along, along)
    inverse = torch.linalg.pinv(reduced, rtol=1e-10, hermitian=True)
    slopes = pixel_slopes(pixels, state, look, scale)
    slopes = slopes - cross * equations.depth_slopes[..., None]
    squares = _squares(pixels)
    sums = slopes.new_zeros(int(squares.max()) + 1, slopes.shape[-1], dtype=torch.float64)
    sums.index_add_(0, squares.flatten(), slopes.flatten(0, 1).double())
    used = int((sums != 0).any(dim=1).sum())
    meat = sums.T @ sums * (used / max(used - 1, 1))
    covariance = inverse @ meat @ inverse
    still = torch.eye(len(along), dtype=torch.float64) - torch.outer(along, along)
    return still @ covariance @ still


def sample_poses(
    world_to_camera: Float[Tensor, "t 4 4"],
    covariance: Float[Tensor, "free free"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "s t 4 4"]:
    """Poses as they may well be, too, given what is found and its covariance; the first stays."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(count, len(values), generator=generator, dtype=torch.float64)
    twists = (noise * values.clamp_min(0).sqrt()) @ vectors.T
    moved = rigid_exponential(twists.reshape(-1, 6)).unflatten(0, (count, -1))
    poses = world_to_camera.expand(count, -1, -1, -1).clone()
    poses[:, 1:] = moved @ poses[:, 1:]
    return poses


def scale_direction(world_to_camera: Float[Tensor, "t 4 4"]) -> Float[Tensor, " free"]:
    """The twists, of length 1 together, that scale a path about its first camera; zero where it does not move."""
    assert torch.equal(invert_rigid(world_to_camera[:1]), world_to_camera[:1])
    twists = world_to_camera.new_zeros(len(world_to_camera) - 1, 6)
    twists[:, :3] = world_to_camera[1:, :3, 3]
    return twists.flatten() / twists.norm().clamp_min(1e-12)


def _squares(pixels: PixelPairs) -> Tensor:
    """The number of the square that each chosen pixel lies in, all keyframes' squares counted through."""
    rows, columns = pixels.chosen // pixels.width, pixels.chosen % pixels.width
    across = -(-pixels.width // SQUARE_PX)
    down = -(-pixels.height // SQUARE_PX)
    inside = (rows // SQUARE_PX) * across + columns // SQUARE_PX
    return inside + down * across * torch.arange(len(inside))[:, None]
