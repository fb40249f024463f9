"""Gaussians as they look at the size they were predicted for, to be drawn at a larger one."""

from __future__ import annotations

from dataclasses import replace

import torch

from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.settings import RenderSettings


def with_pixel_blur(gaussians: Gaussians, cameras: Cameras) -> Gaussians:
    """The scene with the renderer's pixel blur at the size of `cameras` made part of the Gaussians.

    A renderer widens every splat by a fraction of a pixel, so what is without gaps at 64x96 has gaps at four
    times that. Here each Gaussian gets that blur as variance in space, at the depth where the nearest camera
    sees it; one that no camera has before it stays as it is. For looking at: scores use the scene itself.

    gaussians: unbatched. cameras: `[v]`, those that the scene was predicted from.
    """
    cameras = cameras.to(gaussians.means)
    rows = cameras.world_to_camera[:, 2]
    depth = gaussians.means @ rows[:, :3].T + rows[:, 3]
    pixel = depth / cameras.intrinsics[:, 0, 0]
    smallest = torch.where(depth > 0, pixel, torch.inf).amin(dim=1)
    variance = torch.where(smallest.isfinite(), RenderSettings().eps2d * smallest.square(), 0.0)
    return replace(gaussians, scales=(gaussians.scales.square() + variance[:, None]).sqrt())
