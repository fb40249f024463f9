from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from models.gaussians import Gaussians, concatenate_gaussians, matrix_to_quat
from models.meshing.surface_views import SurfaceViews, see_surface
from models.rendering.render import render


def sheet(normal: Tensor, depth: float, half: float, colour: float = 0.5) -> Gaussians:
    """Flat discs on the plane through (0, 0, depth), within `half` of there along both its axes."""
    normal = torch.nn.functional.normalize(normal, dim=0)
    first = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor([0.0, 1, 0]), normal), dim=0
    )
    rotation = torch.stack([first, torch.linalg.cross(normal, first), normal], dim=1)
    ticks = torch.linspace(-half, half, round(2 * half / 0.04) + 1)
    a, b = (t.flatten() for t in torch.meshgrid(ticks, ticks, indexing="ij"))
    count = len(a)
    means = (
        torch.tensor([0.0, 0, depth]) + a[:, None] * rotation[:, 0] + b[:, None] * rotation[:, 1]
    )
    return Gaussians(
        means=means,
        quats=matrix_to_quat(rotation).repeat(count, 1),
        scales=torch.tensor([0.03, 0.03, 0.001]).repeat(count, 1),
        opacities=torch.full((count,), 0.9),
        colors=torch.full((count, 3), colour),
    )


def plane_depth(normal: Tensor, depth: float, camera: Cameras) -> Tensor:
    """True z-depth of the plane through (0, 0, depth)."""
    _, rays = camera.rays()
    rays = rays[0] / rays[0][..., 2:]
    return (normal[2] * depth) / (rays @ normal.to(rays))


def test_a_tilted_plane_of_discs_is_as_deep_as_the_plane(camera):
    normal = torch.nn.functional.normalize(torch.tensor([0.7, -0.3, -0.6]), dim=0)
    views = see_surface(sheet(normal, 2.0, 3.0), camera, 0.5)
    true = plane_depth(normal, 2.0, camera)
    shown = views.shows[0]
    assert shown.float().mean() > 0.85
    error = ((views.depth[0] - true).abs() / true)[shown]
    assert error.median() < 2e-3 and error.quantile(0.95) < 0.01
    # The centres' depth, which a plain rendering has, is farther off.
    plain = ((render(sheet(normal, 2.0, 3.0), camera).expected_depth[0] - true).abs() / true)[shown]
    assert error.mean() < 0.1 * plain.mean()


def test_surfaces_face_the_camera_by_their_angle(camera):
    normal = torch.nn.functional.normalize(torch.tensor([0.5, 0.2, -0.8]), dim=0)
    depth = plane_depth(normal, 2.0, camera).float()[None]
    depth[0, :, :5] = 0
    facing = SurfaceViews(camera, torch.zeros(1, 3, 48, 64), depth).facing()[0]
    _, rays = camera.rays()
    assert torch.allclose(
        facing[:, 5:], (rays[0].double() @ normal.double()).abs().float()[:, 5:], atol=1e-3
    )
    assert (facing[:, :5] == 0).all()


def test_at_an_edge_depth_is_that_of_one_of_the_two(camera):
    front, back = (
        sheet(torch.tensor([0.0, 0, -1]), 1.0, 0.2),
        sheet(torch.tensor([0.0, 0, -1]), 3.0, 2.0),
    )
    both = concatenate_gaussians([front, back])
    depth = see_surface(both, camera, 0.5).depth[0]
    near, far = (depth - 1).abs() < 0.02, (depth - 3).abs() < 0.05
    assert near.float().mean() > 0.03 and far.float().mean() > 0.5
    between = (depth > 1.1) & (depth < 2.8)
    assert between.float().mean() < 0.001


def test_pixels_without_a_surface_are_empty_or_unknown(camera):
    part = sheet(torch.tensor([0.0, 0, -1]), 1.0, 0.2)
    faint = replace(
        sheet(torch.tensor([0.0, 0, -1]), 1.0, 2.0), opacities=torch.full((10201,), 0.05)
    )
    views = see_surface(part, camera, 0.25)
    assert views.depth[0, 0, 0] == torch.inf and not views.shows[0, 0, 0]
    assert views.frames[0, :, 0, 0].tolist() == [0.25] * 3
    veiled = see_surface(concatenate_gaussians([part, faint]), camera, 0.5).depth[0]
    assert veiled[0, 0] == 0 and veiled[24, 32] == pytest.approx(1, abs=0.01)
    points = views.points()
    assert len(points) == views.shows.sum() and (points[:, 2] - 1).abs().max() < 0.01
    with pytest.raises(UserError, match="shows nothing in 1 views"):
        see_surface(replace(part, means=-part.means), camera, 0.5)
