"""Textures refined so that pictures of the mesh are as they should be.

A pixel that shows a face is a weighted sum of four texels, so for given pictures the best texture solves a linear
least-squares problem. The look-up is differentiable, and the gradient of the squared error is all that the
conjugate gradients below need. The target pictures may come from anywhere: renders of Gaussians, or a prior
(`models.meshing.texture_denoising`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.meshing.rasteriser import Fragments
from models.meshing.unwrap import Unwrapped


@dataclass(frozen=True)
class TextureViews:
    """Where on the texture each pixel of some views looks.

    uvs: in [0, 1] from the top left corner. covered: pixels that show the mesh.
    """

    uvs: Float[Tensor, "v h w 2"]
    covered: Bool[Tensor, "v h w"]

    def look_up(self, texture: Float[Tensor, "3 size size"]) -> Float[Tensor, "v 3 h w"]:
        """The texture as the views show it; 0 where there is no mesh."""
        drawn = texture.new_zeros((*self.covered.shape, 3))
        drawn[self.covered] = look_up_texels(texture, self.uvs[self.covered])
        return drawn.movedim(-1, -3)

    def pictures(
        self, texture: Float[Tensor, "3 size size"], background: float, samples: int
    ) -> Float[Tensor, "v 3 rows columns"]:
        """Pictures over grey, of pixels that are the mean of `samples` of these views' along each side."""
        drawn = self.look_up(texture) + background * ~self.covered[:, None]
        return torch.nn.functional.avg_pool2d(drawn, samples)


def look_up_texels(
    texture: Float[Tensor, "3 size size"], uvs: Float[Tensor, "n 2"]
) -> Float[Tensor, "n 3"]:
    """Bilinear look-ups in a texture, differentiable in it; its border repeats."""
    found = torch.nn.functional.grid_sample(
        texture[None],
        (2 * uvs - 1).to(texture.dtype)[None, None],
        padding_mode="border",
        align_corners=False,
    )
    return found[0, :, 0].T


def texture_views(unwrapped: Unwrapped, drawn: Fragments) -> TextureViews:
    """What views of a mesh show, as places on its texture."""
    covered = drawn.face >= 0
    uvs = np.zeros((*covered.shape, 2), np.float32)
    uvs[covered] = drawn.interpolate(unwrapped.mesh.faces, unwrapped.uvs)
    return TextureViews(torch.from_numpy(uvs), torch.from_numpy(covered))


def refine_texture(
    texture: Float[Tensor, "3 size size"],
    views: TextureViews,
    targets: Float[Tensor, "v 3 h w"],
    *,
    weights: Float[Tensor, "v h w"] | None = None,
    steps: int,
    hold: float,
    smooth: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "3 size size"]:
    """The texture, in [0, 1], for which the views are nearest to `targets` (mean squared error).

    weights: of the pixels; None counts all that show the mesh alike. hold, smooth: weights, beside pixels of weight
    1, of the squares of each texel's change and of the difference between neighbouring texels' changes: texels that
    fall between pixels change with those around them. steps: of conjugate gradients.
    """
    weight = views.covered.to(texture.dtype) if weights is None else weights * views.covered
    counts = weight > 0
    uvs, goals = views.uvs[counts], targets.movedim(1, -1)[counts]
    pixel_weights = weight[counts][:, None]

    def gradient(candidate: Tensor, goal: Tensor | float) -> Tensor:
        """Of half the weighted squared error against the goal."""
        with torch.enable_grad():
            leaf = candidate.detach().requires_grad_()
            error = look_up_texels(leaf, uvs) - goal
            return torch.autograd.grad(0.5 * (pixel_weights * error.square()).sum(), leaf)[0]

    def penalty(change: Tensor) -> Tensor:
        """Gradient of half of what the change itself costs."""
        total = hold * change
        for dim in (1, 2):
            step = smooth * change.diff(dim=dim)
            total.narrow(dim, 1, step.shape[dim]).add_(step)
            total.narrow(dim, 0, step.shape[dim]).sub_(step)
        return total

    start = texture.detach()
    change = torch.zeros_like(start)
    residual = -gradient(start, goals)
    direction, square = residual.clone(), residual.square().sum()
    for step in range(steps):
        if float(square) == 0:
            break
        pushed = gradient(direction, 0.0) + penalty(direction)
        length = square / (direction * pushed).sum()
        change += length * direction
        residual -= length * pushed
        last, square = square, residual.square().sum()
        direction = residual + (square / last) * direction
        if on_progress is not None:
            on_progress(step + 1, steps)
    return (start + change).clamp(0, 1)
