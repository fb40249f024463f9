"""Colours that change with the direction of view."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import SH_C0, Gaussians

MAX_DEGREE = 3


def view_colors(
    gaussians: Gaussians, cameras: Cameras
) -> Float[Tensor, "*batch n 3"] | Float[Tensor, "*batch v n 3"]:
    """Plain colours as they are; spherical harmonics as one colour a view, max(SH + 0.5, 0).

    Directions run from the camera to the mean. Gradients reach coefficients, means and cameras, these through
    the general inverse of world_to_camera, as gsplat has it.
    """
    if gaussians.sh_degree is None:
        return gaussians.colors
    centers = torch.linalg.inv(cameras.world_to_camera)[..., :3, 3].to(gaussians.means)
    directions = gaussians.means[..., None, :, :] - centers[..., :, None, :]
    directions = torch.nn.functional.normalize(directions, dim=-1)
    basis = sh_basis(directions, gaussians.sh_degree)
    colors = torch.einsum("...vnk,...nkc->...vnc", basis, gaussians.colors)
    return (colors + 0.5).clamp(min=0)


def sh_basis(directions: Float[Tensor, "*shape 3"], degree: int) -> Float[Tensor, "*shape k"]:
    """Real spherical harmonics of unit directions, k = (degree + 1)^2, in the order and with the signs of 3DGS.

    Order: degree 0; then for each degree from m = -degree to m = degree, with the Condon-Shortley sign.
    """
    assert 0 <= degree <= MAX_DEGREE, (
        f"spherical harmonics of degree {degree}; at most {MAX_DEGREE}"
    )
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    terms = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        c1 = 0.4886025119029199
        terms += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = 1.0925484305920792
        terms += [
            c2 * x * y,
            -c2 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -c2 * x * z,
            c2 / 2 * (xx - yy),
        ]
    if degree >= 3:
        c3, c31 = 0.5900435899266435, 0.4570457994644658
        c32 = 2.890611442640554
        terms += [
            -c3 * y * (3 * xx - yy),
            c32 * x * y * z,
            -c31 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -c31 * x * (4 * zz - xx - yy),
            c32 / 2 * z * (xx - yy),
            -c3 * x * (xx - 3 * yy),
        ]
    return torch.stack(terms, dim=-1)
