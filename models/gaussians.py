"""3D Gaussians: the one type every model predicts and every renderer draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic; colour = 0.5 + SH_C0 * coefficient for degree 0."""


@dataclass(frozen=True)
class Gaussians:
    """Anisotropic Gaussians in world axes (OpenCV), already activated.

    means: centres, scene units.
    quats: rotations, wxyz, unit length (renderers normalise them again).
    scales: standard deviations along the local axes, scene units, > 0.
    opacities: in (0, 1).
    colors: RGB `[*batch n 3]`, or spherical-harmonic coefficients `[*batch n k 3]`, k = (degree + 1)^2.
    """

    means: Float[Tensor, "*batch gaussian 3"]
    quats: Float[Tensor, "*batch gaussian 4"]
    scales: Float[Tensor, "*batch gaussian 3"]
    opacities: Float[Tensor, "*batch gaussian"]
    colors: Float[Tensor, "*batch gaussian 3"] | Float[Tensor, "*batch gaussian k 3"]

    @property
    def num_gaussians(self) -> int:
        return self.means.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        return self.means.shape[:-2]

    @property
    def sh_degree(self) -> int | None:
        """Degree of the spherical harmonics, or None where colours are plain RGB."""
        if self.colors.ndim == self.means.ndim:
            return None
        return math.isqrt(self.colors.shape[-2]) - 1

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to(self, *args: Any) -> Gaussians:
        """A copy on another device or in another dtype, as `Tensor.to`."""
        return Gaussians(**{name: value.to(*args) for name, value in self.tensors().items()})

    def detach(self) -> Gaussians:
        return Gaussians(**{name: value.detach() for name, value in self.tensors().items()})

    def sample(self, index: int) -> Gaussians:
        """Scene `index` of a batch."""
        return Gaussians(**{name: value[index] for name, value in self.tensors().items()})

    def select(self, keep: Bool[Tensor, " gaussian"] | Tensor) -> Gaussians:
        """The Gaussians of an unbatched scene that a mask or index tensor picks."""
        assert not self.batch_shape
        return Gaussians(**{name: value[keep] for name, value in self.tensors().items()})

    def prune(self, min_opacity: float) -> Gaussians:
        """An unbatched scene without the Gaussians of opacity below `min_opacity`."""
        return self.select(self.opacities >= min_opacity)

    def transform(
        self,
        rotation: Float[Tensor, "3 3"],
        translation: Float[Tensor, " 3"],
        scale: float = 1.0,
    ) -> Gaussians:
        """The scene after x -> scale * rotation @ x + translation.

        Spherical harmonics above degree 0 would have to be rotated too; that is not offered.
        """
        assert (self.sh_degree or 0) == 0, "rotating spherical harmonics above degree 0"
        return replace(
            self,
            means=scale * self.means @ rotation.mT + translation,
            quats=multiply_quats(matrix_to_quat(rotation).expand_as(self.quats), self.quats),
            scales=self.scales * scale,
        )


def concatenate_gaussians(parts: Sequence[Gaussians]) -> Gaussians:
    """All Gaussians of `parts` in one scene."""
    names = [f.name for f in fields(Gaussians)]
    dims = {"opacities": -1, "colors": -2 if parts[0].sh_degree is None else -3}
    return Gaussians(
        **{n: torch.cat([getattr(p, n) for p in parts], dim=dims.get(n, -2)) for n in names}
    )


def stack_gaussians(parts: Sequence[Gaussians]) -> Gaussians:
    """Scenes of equal size as one batch."""
    return Gaussians(
        **{f.name: torch.stack([getattr(p, f.name) for p in parts]) for f in fields(Gaussians)}
    )


def multiply_quats(
    left: Float[Tensor, "*shape 4"], right: Float[Tensor, "*shape 4"]
) -> Float[Tensor, "*shape 4"]:
    """Hamilton products of wxyz quaternions: the rotation `left` after `right`."""
    a, b, c, d = left.unbind(-1)
    e, f, g, h = right.unbind(-1)
    return torch.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ],
        dim=-1,
    )


def quat_to_matrix(quats: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 3 3"]:
    """Rotation matrices of wxyz quaternions, normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quat(rotation: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "*shape 4"]:
    """Unit wxyz quaternions (w >= 0) of rotation matrices, by the largest of the four components."""
    m = rotation
    diagonal = torch.diagonal(m, dim1=-2, dim2=-1)
    signs = m.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    squares = 1 + diagonal @ signs.T
    w, x, y, z = squares.unbind(-1)
    yz, zx, xy = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy_, xz_, yz_ = (
        m[..., 1, 0] + m[..., 0, 1],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 2, 1] + m[..., 1, 2],
    )
    candidates = torch.stack(
        [
            torch.stack([w, yz, zx, xy], dim=-1),
            torch.stack([yz, x, xy_, xz_], dim=-1),
            torch.stack([zx, xy_, y, yz_], dim=-1),
            torch.stack([xy, xz_, yz_, z], dim=-1),
        ],
        dim=-2,
    )
    best = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quats = torch.nn.functional.normalize(candidates.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(quats[..., :1] < 0, -quats, quats)
