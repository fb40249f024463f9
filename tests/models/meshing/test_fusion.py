from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from data.cameras import Cameras
from models.meshing.fusion import fuse_views
from models.meshing.grid import Contraction, make_grid
from models.meshing.surface import Mesh, in_world, iso_surface, open_edges
from models.meshing.surface_views import SurfaceViews
from models.meshing.views import views_around


def volume(mesh: Mesh) -> float:
    """Enclosed volume, by trimesh; refuses a mesh that encloses nothing."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    return float(solid.volume)


def true_depth(cameras: Cameras) -> torch.Tensor:
    """z-depth of the unit ball at the origin; infinite beside it."""
    origins, rays = cameras.to(torch.float64).rays()
    along = (rays * origins[:, None, None]).sum(-1)
    square = along.square() - origins.square().sum(-1)[:, None, None] + 1
    distance = -along - square.clamp(min=0).sqrt()
    z = distance * (rays @ cameras.camera_to_world[:, :3, 2].double()[:, None, :, None])[..., 0]
    return torch.where(square > 0, z, torch.inf).float()


@pytest.fixture
def views(sphere) -> SurfaceViews:
    cameras = views_around(sphere.gaussians, 24, 96, 96)
    return SurfaceViews(cameras, torch.zeros(24, 3, 96, 96), true_depth(cameras))


def test_exact_depth_gives_the_exact_body(views):
    grid = make_grid(np.full(3, -1.2), np.full(3, 1.2), 56)
    steps = []
    values, known = fuse_views(views, grid, 3.0, 0.0, on_progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1]
    mesh = in_world(iso_surface(values, 0.0, known=known, inside_is_above=False), grid)
    away = np.linalg.norm(mesh.vertices, axis=1) - 1
    assert np.abs(away).mean() < 0.1 * grid.cell and np.abs(away).max() < 0.7 * grid.cell
    assert len(open_edges(mesh)) == 0 and volume(mesh) == pytest.approx(4.189, rel=0.02)
    nodes = np.argwhere(known)
    distance = np.linalg.norm(grid.lower + grid.cell * nodes, axis=1) - 1
    clear = np.abs(distance) > 0.5 * grid.cell
    assert (np.sign(values[tuple(nodes.T)]) == np.sign(distance))[clear].all()
    assert values.min() >= -1 and values.max() == 1


def test_where_nothing_was_seen_the_surface_is_open(views):
    some = views.cameras.positions[:, 1] < -0.5  # from above
    above = SurfaceViews(
        views.cameras.select(some.nonzero()[:, 0]), views.frames[some], views.depth[some]
    )
    grid = make_grid(np.full(3, -1.2), np.full(3, 1.2), 56)
    values, known = fuse_views(above, grid, 3.0, 0.0)
    mesh = in_world(iso_surface(values, 0.0, known=known, inside_is_above=False), grid)
    assert len(open_edges(mesh)) > 50
    assert mesh.vertices[:, 1].min() == pytest.approx(-1, abs=0.03)
    assert mesh.vertices[:, 1].max() < 0.95
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1).max() < grid.cell


def test_a_body_seen_from_all_around_is_closed_where_no_view_looks(views):
    """A window in every view hides a spot of the ball; what is behind such windows counts as inside."""
    hidden = views.points().reshape(-1, 3)[:1]
    pixels, _ = views.cameras.project(hidden)
    rows, columns = (torch.arange(96) + 0.5)[:, None], (torch.arange(96) + 0.5)[None]
    u, v = (pixels[:, 0, i, None, None] for i in (0, 1))
    window = (rows - v).abs().maximum((columns - u).abs()) < 6
    some = SurfaceViews(views.cameras, views.frames, torch.where(window, 0.0, views.depth))
    grid = make_grid(np.full(3, -1.2), np.full(3, 1.2), 56)

    def surface(closed: bool) -> Mesh:
        values, known = fuse_views(some, grid, 3.0, 0.0, closed=closed)
        return in_world(iso_surface(values, 0.0, known=known, inside_is_above=False), grid)

    assert len(open_edges(surface(closed=False))) > 5
    whole = surface(closed=True)
    assert len(open_edges(whole)) == 0 and volume(whole) == pytest.approx(4.189, rel=0.03)


def test_a_contracted_grid_finds_the_same_body(views):
    contraction = Contraction(np.array([0.0, 0, -2.0]), 1.2)
    points = views.points().double().numpy()
    inward = contraction.inward(points)
    grid = make_grid(inward.min(0) - 0.05, inward.max(0) + 0.05, 64, contraction)
    values, known = fuse_views(views, grid, 3.0, 0.0)
    mesh = in_world(iso_surface(values, 0.0, known=known, inside_is_above=False), grid)
    away = np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1)
    assert away.mean() < 0.01 and volume(mesh) == pytest.approx(4.189, rel=0.04)
    assert len(open_edges(mesh)) == 0


def test_views_that_disagree_within_the_reach_meet_in_the_middle(camera):
    both = Cameras(
        camera.world_to_camera.repeat(2, 1, 1), camera.intrinsics.repeat(2, 1, 1), 48, 64
    )
    depth = torch.stack([torch.full((48, 64), 1.9), torch.full((48, 64), 2.1)])
    views = SurfaceViews(both, torch.zeros(2, 3, 48, 64), depth)
    grid = make_grid(np.array([-0.3, -0.3, 1.5]), np.array([0.3, 0.3, 2.5]), 64)

    def surfaces(share: float) -> np.ndarray:
        values, known = fuse_views(views, grid, 2.0, share)
        mesh = in_world(iso_surface(values, 0.0, known=known, inside_is_above=False), grid)
        inner = np.abs(mesh.vertices[:, :2]).max(axis=1) < 0.2
        return np.unique(mesh.vertices[inner, 2].round(2))

    assert surfaces(0.2).tolist() == [2.0]
    assert surfaces(0.0).tolist() == [2.1]  # else what one view sees through is gone
