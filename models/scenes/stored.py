"""What the file formats of Gaussians have in common: checks, colours as harmonics, the axes of OpenGL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from models.gaussians import SH_C0, Gaussians
from models.rendering.spherical_harmonics import sh_basis


def scene_to_store(gaussians: Gaussians, path: Path) -> Gaussians:
    """An unbatched scene on the CPU in float64; raises UserError where it holds NaN or infinite values."""
    assert not gaussians.batch_shape, "one scene a file: choose one with Gaussians.sample(...)"
    scene = gaussians.detach().to("cpu", torch.float64)
    for name, tensor in scene.tensors().items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{path}: not written, since the scene's {name} hold NaN or infinite values"
            )
    return scene


def harmonics_of(gaussians: Gaussians) -> Float[Tensor, "gaussian k 3"]:
    """Colours as spherical-harmonic coefficients, RGB as those of degree 0."""
    if gaussians.sh_degree is None:
        return ((gaussians.colors - 0.5) / SH_C0)[..., None, :]
    return gaussians.colors


def colors_of(
    harmonics: Float[Tensor, "gaussian k 3"],
) -> Float[Tensor, "gaussian 3"] | Float[Tensor, "gaussian k 3"]:
    """Colours as `Gaussians` holds them: coefficients, but of degree 0 as RGB, clamped as when drawn."""
    if harmonics.shape[1] > 1:
        return harmonics
    return (harmonics[:, 0] * SH_C0 + 0.5).clamp(min=0)


def flip_y_and_z(gaussians: Gaussians) -> Gaussians:
    """The scene in axes with x right, y up, z back (OpenGL, glTF, SPZ) instead of ours; its own inverse.

    A half turn about x: it changes no shape, and of the harmonics only signs.
    """
    signs = gaussians.means.new_tensor([1.0, -1.0, -1.0])
    quat_signs = gaussians.means.new_tensor([1.0, 1.0, -1.0, -1.0])
    colors = gaussians.colors
    if gaussians.sh_degree is not None:
        # Every basis function is even or odd under the turn: one direction tells which.
        direction = torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)
        turned = direction * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
        degree = gaussians.sh_degree
        parity = torch.sign(sh_basis(direction, degree) * sh_basis(turned, degree))
        colors = colors * parity.to(colors)[:, None]
    return replace(
        gaussians,
        means=gaussians.means * signs,
        quats=gaussians.quats * quat_signs,
        colors=colors,
    )
