"""From bodies of known shape to meshes with texture, by both methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from configs.errors import UserError
from data.cameras import Cameras, concatenate_cameras
from models.meshing.extraction import (
    EVEN_RATIO,
    MeshConfig,
    extract_surface,
    place_grid,
    texture_mesh,
)
from models.meshing.rasteriser import draw
from models.meshing.surface import Mesh, open_edges, parts
from models.meshing.surface_views import SurfaceViews, see_surface
from models.meshing.texture_fit import texture_views
from models.meshing.views import path_views, views_around, views_beside
from models.rendering.render import render

BACKGROUND = 0.5
CONFIG = MeshConfig(
    grid=112, faces=6000, texture=512, reach_share=0.0, reach_cells=2.0, smoothing=3
)


def seen_from_all_around(body: Any, num_views: int = 26, side: int = 96) -> SurfaceViews:
    return see_surface(
        body.gaussians, views_around(body.gaussians, num_views, side, side), BACKGROUND
    )


def sampled(mesh: Mesh, count: int = 200_000) -> np.ndarray:
    """Points spread evenly over a mesh's surface."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(solid, count, seed=0)[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["depth", "density"])
@pytest.mark.parametrize("name", ["sphere", "box", "both"])
def test_bodies_come_out_closed_and_within_one_percent(name, method, request):
    """The mesh lies on the body, and all of the body on the mesh."""
    body = request.getfixturevalue(name)
    views = seen_from_all_around(body)
    # The density swells a body by about a deviation of its Gaussians: it needs finer cells.
    config = CONFIG.model_copy(update={"method": method, "grid": 112 if method == "depth" else 160})
    grid = place_grid(views, config)
    assert grid.contraction is None
    mesh = extract_surface(body.gaussians, views, grid, config, all_around=True)
    assert mesh.num_faces <= CONFIG.faces and parts(mesh)[0] == body.parts
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight and solid.is_winding_consistent and len(open_edges(mesh)) == 0
    assert solid.volume == pytest.approx(body.volume, rel=0.1)
    points = sampled(mesh)
    assert body.error(points).mean() < 0.01 * body.size
    away, _ = cKDTree(points).query(body.gaussians.means.numpy())
    assert away.mean() < 0.01 * body.size and away.max() < 0.04 * body.size


@pytest.mark.slow
def test_a_scene_seen_along_a_path_lies_where_it_is(ball_on_a_floor):
    """Open where nothing was seen, on the truth elsewhere, and nowhere in between."""
    gaussians, error, path = ball_on_a_floor
    beside = views_beside(path, torch.full((path.num_views,), 3.0), 8, 0.15)
    cameras = concatenate_cameras([path_views(path, 12), beside])
    views = see_surface(gaussians, cameras, BACKGROUND)
    config = MeshConfig(grid=160)
    mesh = extract_surface(gaussians, views, place_grid(views, config), config)
    assert len(open_edges(mesh)) > 0
    size = float(np.ptp(mesh.vertices, axis=0).max())
    assert size > 3
    points = sampled(mesh)
    assert error(points).mean() < 0.01 * size
    truth = views.points().double().numpy()
    away, _ = cKDTree(points).query(truth[:: len(truth) // 5000])
    assert away.mean() < 0.01 * size
    drawn = draw(mesh, cameras)
    assert (drawn.face >= 0)[views.shows.numpy()].mean() > 0.98


@pytest.mark.slow
def test_the_texture_shows_what_the_renders_show(sphere):
    views = seen_from_all_around(sphere)
    mesh = extract_surface(
        sphere.gaussians, views, place_grid(views, CONFIG), CONFIG, all_around=True
    )
    stages = set()
    textured = texture_mesh(mesh, views, CONFIG, lambda stage, *_: stages.add(stage))
    assert stages == {"unwrapping", "baking texture", "refining texture"}
    others = views_around(sphere.gaussians, 9, 96, 96)
    truth = render(sphere.gaussians, others)
    shown = texture_views(textured.unwrapped, draw(textured.unwrapped.mesh, others))
    inside = shown.covered & (truth.alpha > 0.95)
    assert inside.float().mean() > 0.3
    error = (shown.look_up(textured.texture) - truth.frames).movedim(1, -1)[inside]
    assert -10 * torch.log10(error.square().mean()) > 28  # 25 dB is asked for


def test_a_scene_from_inside_gets_a_contracted_grid_over_what_is_seen(camera):
    """A floor that runs from near to far."""
    rows = torch.linspace(0, 1, camera.height)[None, :, None].expand(1, -1, camera.width)
    depth = 1 / (0.05 + 0.95 * rows)
    views = SurfaceViews(camera, torch.zeros(1, 3, camera.height, camera.width), depth)
    grid = place_grid(views, CONFIG)
    assert grid.contraction is not None and max(grid.shape) == CONFIG.grid
    inside = grid.blocks_of(views.points().double().numpy()) >= 0
    assert inside.mean() > 0.99
    near, far = (grid.cell_sizes(grid.to_grid(np.array([[0.0, 0, z]])))[0] for z in (1.0, 15.0))
    assert far > 10 * near
    even = replace(views, depth=depth.clamp(max=float(depth.min()) * EVEN_RATIO))
    assert place_grid(even, CONFIG).contraction is None
    box = np.array([-1.0, -1, 1]), np.array([1.0, 1, 2])
    assert place_grid(views, CONFIG, box).contraction is None


@pytest.mark.slow
def test_density_of_an_open_scene_keeps_only_what_is_seen(sphere):
    """Of a ball looked at from one side, the far half goes."""
    around = views_around(sphere.gaussians, 26, 96, 96)
    above = around.select((around.positions[:, 1] < -1).nonzero()[:, 0])
    views = see_surface(sphere.gaussians, above, BACKGROUND)
    config = CONFIG.model_copy(update={"method": "density", "smoothing": 0})
    mesh = extract_surface(sphere.gaussians, views, place_grid(views, config), config)
    assert len(open_edges(mesh)) > 0
    assert mesh.vertices[:, 1].min() < -0.98 and mesh.vertices[:, 1].max() < 0.9


def test_scenes_that_make_no_mesh_are_refused_in_words(sphere):
    good = sphere.gaussians
    views = seen_from_all_around(sphere, 4, 32)
    grid = place_grid(views, CONFIG)
    with pytest.raises(UserError, match=r"GiB are free; --grid \d+ would fit"):
        extract_surface(good, views, grid, CONFIG, bytes_free=310_000_000)
    density = CONFIG.model_copy(update={"method": "density", "level": 1e6})
    with pytest.raises(UserError, match="no surface"):
        extract_surface(good, views, grid, density)
    elsewhere = place_grid(views, CONFIG, (np.full(3, 5.0), np.full(3, 6.0)))
    with pytest.raises(UserError, match="no surface"):
        extract_surface(good, views, elsewhere, CONFIG)
    away = views.cameras.world_to_camera.clone()
    away[:, 2, 3] = -50
    with pytest.raises(UserError, match="shows nothing in 4 views"):
        see_surface(good, Cameras(away, views.cameras.intrinsics, 32, 32), BACKGROUND)
