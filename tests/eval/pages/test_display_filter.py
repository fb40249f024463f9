"""The display filter: pictures at four times the size look like those at the size of the prediction."""

from __future__ import annotations

import torch

from data.cameras import Cameras, intrinsics_from_fov
from eval.pages.display_filter import with_pixel_blur
from models.gaussians import Gaussians
from models.rendering.render import render


def wall_of_points() -> Gaussians:
    """Thin Gaussians, one in the middle of each pixel of a 16x24 camera, at depth 2, and one behind it."""
    camera = small_camera()
    origins, directions = camera.rays()
    points = (origins[:, None, None] + 2 * directions / directions[..., 2:]).reshape(-1, 3)
    points = torch.cat([points, torch.tensor([[0.0, 0.0, -3.0]])])
    count = len(points)
    return Gaussians(
        means=points,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4).clone(),
        scales=torch.full((count, 3), 0.2 * 2 / float(camera.intrinsics[0, 0, 0])),
        opacities=torch.full((count,), 0.9),
        colors=torch.ones(count, 3),
    )


def small_camera() -> Cameras:
    intrinsics = intrinsics_from_fov(50.0, 16, 24)[None]
    return Cameras.from_camera_to_world(torch.eye(4)[None], intrinsics, 16, 24)


def test_gaps_at_a_larger_size_are_closed():
    scene, camera = wall_of_points(), small_camera()
    large = camera.resize(64, 96)
    small = render(scene, camera).frames[..., 2:-2, 2:-2].mean()
    raw = render(scene, large).frames[..., 8:-8, 8:-8].mean()
    shown = render(with_pixel_blur(scene, camera), large).frames[..., 8:-8, 8:-8].mean()
    assert raw < 0.6 * small
    assert abs(shown - small) < 0.1 * small


def test_what_no_camera_sees_stays_as_it_is():
    scene = wall_of_points()
    shown = with_pixel_blur(scene, small_camera())
    assert torch.equal(shown.scales[-1], scene.scales[-1])
    assert (shown.scales[:-1] > scene.scales[:-1]).all()
    assert torch.equal(shown.means, scene.means)


def test_cameras_go_where_the_gaussians_are():
    scene = wall_of_points().to("meta")
    assert with_pixel_blur(scene, small_camera()).scales.device.type == "meta"
