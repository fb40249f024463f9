"""The depth that a plane sweep tells, on scenes whose depth is known."""

from __future__ import annotations

import pytest
import torch

from data.cameras import Cameras, intrinsics_from_fov
from data.scene_depth import sweep_depth

HEIGHT, WIDTH = 24, 32


def cameras_along_x(num_views: int, step: float) -> Cameras:
    to_world = torch.eye(4).repeat(num_views, 1, 1)
    to_world[:, 0, 3] = step * torch.arange(num_views)
    intrinsics = intrinsics_from_fov(50.0, HEIGHT, WIDTH).expand(num_views, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, HEIGHT, WIDTH)


def painted_plane(cameras: Cameras, depth: float, period: float) -> torch.Tensor:
    """What the cameras see of waves painted on the plane z = depth."""
    origins, directions = cameras.rays()
    points = origins[:, None, None] + directions * (depth / directions[..., 2:])
    x, y = points[..., 0] / period, points[..., 1] / period
    waves = [torch.sin(x + y), torch.sin(1.7 * x - y), torch.cos(2.3 * y + 0.6 * x)]
    return 0.5 + 0.4 * torch.stack(waves, dim=1)


@pytest.mark.parametrize("depth", [0.7, 2.0, 9.0])
def test_it_finds_the_depth_of_a_plane(depth):
    cameras = cameras_along_x(9, 0.05 * depth)
    found = sweep_depth(painted_plane(cameras, depth, 0.1 * depth), cameras)
    assert found == pytest.approx(depth, rel=0.1)


def test_it_scales_with_the_unit_of_length():
    cameras = cameras_along_x(9, 0.1)
    frames = painted_plane(cameras, 2.0, 0.2)
    found, in_other_units = sweep_depth(frames, cameras), sweep_depth(frames, cameras.rescaled(4.0))
    assert found is not None and in_other_units == pytest.approx(found / 4, rel=1e-3)


def test_it_tells_nothing_from_a_camera_that_stands_still_or_from_noise_or_one_colour():
    still = cameras_along_x(9, 0.0)
    assert sweep_depth(painted_plane(still, 2.0, 0.2), still) is None
    noise = torch.rand(9, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    assert sweep_depth(noise, cameras_along_x(9, 0.1)) is None
    assert sweep_depth(torch.full((9, 3, HEIGHT, WIDTH), 0.5), cameras_along_x(9, 0.1)) is None
    one = cameras_along_x(1, 0.1)
    assert sweep_depth(painted_plane(one, 2.0, 0.2), one) is None
