"""A stand-in for gsplat's rasteriser that computes nothing: right shapes, gradients, and memory.

It draws tensors that hold no values (`models.fake_tensors`), so that a training step can be rehearsed without a GPU.
What it allocates, keeps for the backward pass and frees is what gsplat 1.5.3 does with `packed=False`, read from
its `rendering.py`, `cuda/_wrapper.py` and `csrc/Intersect.cpp`. One number is unknown without values: how many
tiles a splat touches.

Legend: b scenes, v views, n Gaussians, h w image size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.screen import ScreenTrace
from models.rendering.settings import RenderSettings
from models.rendering.spherical_harmonics import view_colors

TILE = 16
"""Side of gsplat's tiles [px]."""
TILES_PER_SPLAT = 2.6
"""Tiles that a splat touches in one view, all of them seen. A new LaLRM's have a standard deviation of 1.4 px, so a
radius of 5 px in gsplat: (1 + 2 * 5 / 16)^2."""


def rasterise(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RenderSettings,
    trace: ScreenTrace | None = None,
) -> tuple[Float[Tensor, "b v 3 h w"], Float[Tensor, "b v h w"], Float[Tensor, "b v h w"]]:
    """Tensors shaped as colour, sum of weight * z, and transmittance of a batch `[b]` of scenes."""
    assert trace is None, "a trace is of values, and there are none"
    dtype = gaussians.means.dtype
    gaussians = gaussians.to(torch.float32)
    batch, views, num = len(gaussians.means), cameras.num_views, gaussians.num_gaussians
    radii, means, depths, conics = Project.apply(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        cameras.world_to_camera.to(gaussians.means),
        cameras.intrinsics.to(gaussians.means),
    )
    opacities = gaussians.opacities[:, None].expand(batch, views, num)
    colors = view_colors(gaussians, cameras)
    if colors.ndim == 3:
        colors = colors[:, None].expand(batch, views, num, 3)
    colors = torch.cat([colors, depths[..., None]], dim=-1)
    tiles_per_splat, keys, splat_ids = list_intersections(depths.detach())
    tiles = (math.ceil(cameras.height / TILE), math.ceil(cameras.width / TILE))
    offsets = depths.new_empty((batch, views, *tiles), dtype=torch.int32)
    size = (cameras.height, cameras.width)
    image, alpha = Draw.apply(
        means, conics, colors, opacities.contiguous(), offsets, splat_ids, size
    )
    image = image.movedim(-1, -3).to(dtype)
    transmittance = 1 - alpha[..., 0].to(dtype)
    del radii, tiles_per_splat, keys  # gsplat hands them back, so they live until here
    return image[..., :3, :, :], image[..., 3, :, :], transmittance


@torch.no_grad()
def list_intersections(depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles per splat, sort keys and splat numbers; keys and numbers exist twice while they are sorted."""
    total = math.ceil(TILES_PER_SPLAT * depths.numel())
    tiles_per_splat = torch.empty_like(depths, dtype=torch.int32)
    running = tiles_per_splat.view(-1).cumsum(0)
    keys, numbers = (depths.new_empty(total, dtype=t) for t in (torch.int64, torch.int32))
    sorted_keys, sorted_numbers = torch.empty_like(keys), torch.empty_like(numbers)
    del running, keys, numbers
    return tiles_per_splat, sorted_keys, sorted_numbers


class Project(torch.autograd.Function):
    """Gaussians to splats: radii (int32), means [px], depths, inverse covariances."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, intrinsics: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shape = (len(means), viewmats.shape[1], means.shape[1])
        radii = means.new_empty((*shape, 2), dtype=torch.int32)
        points, depths, conics = (means.new_empty(s) for s in ((*shape, 2), shape, (*shape, 3)))
        ctx.save_for_backward(means, quats, scales, viewmats, intrinsics, radii, conics)
        ctx.mark_non_differentiable(radii)
        return radii, points, depths, conics

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, scales, viewmats, *_ = ctx.saved_tensors
        kept = [gradient.contiguous() for gradient in gradients[1:]]
        found = [torch.empty_like(x) for x in (means, quats, scales, viewmats)]
        del kept
        return (*found, None)


class Draw(torch.autograd.Function):
    """Splats to colour with depth `[b v h w 4]` and alpha `[b v h w 1]`."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        offsets: Tensor,
        splat_ids: Tensor,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        shape = (*means.shape[:2], *size)
        image, alpha = means.new_empty((*shape, 4)), means.new_empty((*shape, 1))
        last = means.new_empty(shape, dtype=torch.int32)
        ctx.save_for_backward(means, conics, colors, opacities, offsets, splat_ids, alpha, last)
        return image, alpha

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[:4]
        kept = [gradient.contiguous() for gradient in gradients]
        found = [torch.empty_like(x) for x in inputs]
        del kept
        return (*found, None, None, None)
