from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras
from models.meshing.views import ball, path_views, turntable, views_around, views_beside


def test_views_from_all_around_show_all_of_the_body(sphere):
    gaussians = sphere.gaussians.transform(torch.eye(3), torch.tensor([5.0, -3, 2]), 0.5)
    centre, radius = ball(gaussians)
    assert torch.allclose(centre, torch.tensor([5.0, -3, 2]).double(), atol=0.01)
    assert 0.5 < radius < 0.54
    for cameras in (views_around(gaussians, 20, 40, 60), turntable(gaussians, 20, 40, 60)):
        pixels, depth = cameras.project(gaussians.means)
        assert (depth > 0).all() and (pixels >= 0).all()
        assert (pixels[..., 0] <= 60).all() and (pixels[..., 1] <= 40).all()
        assert (pixels[..., 1].amax(1) - pixels[..., 1].amin(1)).min() > 30
        cameras.validate("around")
        assert (cameras.camera_to_world[:, 1, 1] > 0).all()  # down stays down
    directions = torch.nn.functional.normalize(
        views_around(gaussians, 20, 40, 60).positions.double() - centre, dim=1
    )
    nearest = (directions @ directions.T - 2 * torch.eye(20)).amax(1)
    assert directions.mean(0).norm() < 0.05 and nearest.max() < 0.9


def test_outliers_do_not_widen_the_ball(sphere):
    means = sphere.gaussians.means.clone()
    means[:20] *= 1000
    from dataclasses import replace

    assert ball(replace(sphere.gaussians, means=means))[1] < 1.2
    with pytest.raises(UserError, match="no extent"):
        ball(replace(sphere.gaussians, scales=sphere.gaussians.scales * 0, means=means * 0))


def test_views_beside_look_at_the_same_points(camera):
    path = make_path("dolly", camera, 9, 0.3)
    depths = torch.linspace(1, 2, 9)
    beside = views_beside(path, depths, 4, 0.2).validate("beside")
    chosen = [0, 3, 5, 8]
    ahead = path.positions[chosen] + depths[chosen, None] * path.camera_to_world[chosen, :3, 2]
    pixels, depth = beside.project(ahead)
    own = pixels[torch.arange(4), torch.arange(4)]
    assert torch.allclose(own, torch.tensor([32.0, 24.0]).expand(4, 2), atol=1e-3)
    assert torch.allclose(depth.diagonal(), depths[chosen] * (1 + 0.2**2) ** 0.5, atol=1e-4)
    moves = (beside.positions - path.positions[chosen]) / depths[chosen, None]
    expected = 0.2 * torch.tensor([[1.0, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]])
    assert torch.allclose(moves, expected, atol=1e-5)


def test_a_long_path_is_thinned_and_a_short_one_is_not(camera):
    path = make_path("truck", camera, 9, 0.3)
    assert path_views(path, 20) is path
    thinned = path_views(path, 5)
    assert torch.allclose(thinned.positions, path.positions[::2], atol=1e-6)
    assert isinstance(thinned, Cameras)
