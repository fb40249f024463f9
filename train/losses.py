"""Losses of the reconstruction task, each a plain function of tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import Gaussians


def half_resolution_distance(
    depth: Float[Tensor, "b t h w"], cameras: Cameras
) -> Float[Tensor, "b t h_half w_half"]:
    """Distances along the rays of the half-resolution grid, from z-depth maps; 0 where unknown.

    Each cell takes the second nearest of its four pixels, so that it never mixes two surfaces.
    """
    cells = depth.unfold(-2, 2, 2).unfold(-2, 2, 2).flatten(-2)
    z_depth = cells.median(dim=-1).values
    grid = cameras.resize(*z_depth.shape[-2:])
    _, directions = grid.rays()
    # A ray of unit length gains `forward` depth per unit of distance along the camera's z axis.
    forward = torch.einsum("btj,bthwj->bthw", grid.world_to_camera[..., 2, :3], directions)
    return z_depth / forward


def ray_distance(gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "b t n_per_view"]:
    """Each Gaussian's distance from the camera that it was predicted for (Gaussians ordered by view)."""
    means = gaussians.means.unflatten(1, (cameras.num_views, -1))
    return (means - cameras.positions[:, :, None]).norm(dim=-1)


def log_distance_loss(
    predicted: Float[Tensor, b * shape], target: Float[Tensor, b * shape]
) -> Float[Tensor, ""]:
    """Mean absolute difference of log distances where the target is known (> 0), of each clip, over clips."""
    known = (target > 0).flatten(1)
    reference = torch.where(known, target.flatten(1), 1.0)
    error = (predicted.flatten(1).log() - reference.log()).abs()
    return ((error * known).sum(dim=1) / known.sum(dim=1).clamp_min(1)).mean()


def scale_regulariser(gaussians: Gaussians, limit: float) -> Float[Tensor, ""]:
    """Mean square of how far scales exceed `limit` times the Gaussian's distance from the origin."""
    distance = gaussians.means.detach().norm(dim=-1, keepdim=True).clamp_min(1e-3)
    return (gaussians.scales / distance - limit).clamp_min(0).square().mean()


def opacity_regulariser(gaussians: Gaussians) -> Float[Tensor, ""]:
    """Mean opacity: pushes Gaussians that explain nothing towards vanishing."""
    return gaussians.opacities.mean()
