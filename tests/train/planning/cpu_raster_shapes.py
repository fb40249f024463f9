"""What the CPU rasteriser gives to PyTorch's allocator, as `models.rendering.by_shape` does for gsplat.

Its work space is numpy's, which that allocator does not see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import Gaussians


def rasterise(
    gaussians: Gaussians, cameras: Cameras, settings: Any, trace: None = None
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors,
        cameras.world_to_camera,
    )  # fmt: skip
    by_input = [t.unbind(0) for t in inputs]
    size = (cameras.height, cameras.width)
    scenes = [Scene.apply(size, *(t[n] for t in by_input)) for n in range(len(inputs[0]))]
    frames, depth, alpha = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    return frames, depth, alpha


class Scene(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: tuple[int, int], *inputs: Tensor) -> tuple[Tensor, ...]:
        views = len(inputs[-1])
        ctx.save_for_backward(*(t.contiguous() for t in inputs[:4]))
        ctx.shapes = [t.shape for t in inputs]
        new = inputs[0].new_empty
        return new(views, 3, *size), new(views, *size), new(views, *size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept = [gradient.contiguous() for gradient in gradients]
        found = [torch.zeros(shape) for shape in ctx.shapes]
        del kept
        return (None, *found)
