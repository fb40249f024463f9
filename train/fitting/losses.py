"""What a fit is asked for beside looking like its frames."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from models.rendering.render import Rendering
from train.ssim import structural_similarity

LEAST_ALPHA = 0.05
"""Where less than this of a pixel is covered, it has no depth to speak of."""
NEAREST = 1e-2
"""Depths are kept this far from the camera, where their inverse is infinite [scene units]."""


def photometric_loss(
    drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"], ssim_weight: float
) -> Float[Tensor, ""]:
    """(1 - w) L1 + w (1 - SSIM), means over views and pixels. 3DGS, eq. 7, with w = 0.2 there."""
    loss = (1 - ssim_weight) * (drawn - truth).abs().mean()
    if ssim_weight:
        loss = loss + ssim_weight * (1 - structural_similarity(drawn, truth))
    return loss


def depth_loss(drawn: Rendering, depth: Float[Tensor, "v h w"]) -> Float[Tensor, ""]:
    """Mean difference of inverse z-depths where `depth` is known (> 0) and the scene covers the pixel.

    Inverse, so that it counts by what it moves on the screen. Zero where there is no such pixel.
    """
    known = (depth > 0) & (drawn.alpha.detach() > LEAST_ALPHA)
    found = drawn.expected_depth.clamp_min(NEAREST)
    apart = (1 / found - 1 / depth.clamp_min(NEAREST)).abs()
    return torch.where(known, apart, 0.0).sum() / known.sum().clamp_min(1)


def opacity_loss(opacities: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean opacity: what no picture needs fades, and is pruned (3DGS-MCMC, arXiv 2404.09591, eq. 13)."""
    return opacities.mean()
