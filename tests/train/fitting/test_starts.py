"""Starts of a fit: Gaussians on the rays of pixels, in their colours."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from train.fitting import starts

HEIGHT, WIDTH = 24, 32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_start_lies_on_the_rays_of_the_pixels_it_takes_its_colours_from(cameras, frames):
    config = starts.StartConfig(num_gaussians=500, near=0.5, far=4.0)
    start = starts.random_gaussians(frames, cameras, config, generator())
    pixels, depth = cameras.project(start.means)
    matches = torch.zeros(500, dtype=torch.bool)
    for view in range(6):
        u, v = pixels[view].unbind(-1)
        inside = (u > 0) & (u < WIDTH) & (v > 0) & (v < HEIGHT) & (depth[view] > 0)
        row, column = v.clamp(0, HEIGHT - 1).long(), u.clamp(0, WIDTH - 1).long()
        colour = frames[view][:, row, column].T
        centred = ((u % 1 - 0.5).abs() < 1e-3) & ((v % 1 - 0.5).abs() < 1e-3)
        within = (depth[view] > 0.499) & (depth[view] < 4.001)
        matches |= inside & centred & within & ((colour - start.colors).abs().amax(1) < 1e-5)
    assert matches.all()


def test_start_from_depth_puts_points_on_the_surface(cameras, frames):
    depth = torch.full((6, HEIGHT, WIDTH), 1.5)
    depth[:, : HEIGHT // 2] = 0
    config = starts.StartConfig(num_gaussians=200)
    start = starts.gaussians_from_depth(frames, cameras, depth, config, generator())
    assert start.num_gaussians == 200
    assert torch.allclose(start.means[:, 2], torch.tensor(1.5), atol=1e-5)
    with pytest.raises(UserError, match="no pixel"):
        starts.gaussians_from_depth(frames, cameras, depth * 0, config, generator())
