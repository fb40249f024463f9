"""From bodies of known shape to meshes with texture, by both methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras
from models.meshing.extraction import (
    EVEN_RATIO,
    MeshConfig,
    check_scene,
    extract_surface,
    place_grid,
    texture_mesh,
)
from models.meshing.rasteriser import draw
from models.meshing.surface import open_edges, parts
from models.meshing.surface_views import SurfaceViews, see_surface
from models.meshing.texture_fit import texture_views
from models.meshing.views import views_around
from models.rendering.render import render

CONFIG = MeshConfig(grid=112, faces=6000, texture=512, reach_share=0.0, reach_cells=2.0, smoothing=3)


@pytest.fixture(scope="module")
def seen(sphere, box) -> dict[str, SurfaceViews]:
    return {
        name: see_surface(body.gaussians, views_around(body.gaussians, 26, 96, 96), 0.5)
        for name, body in (("sphere", sphere), ("box", box))
    }


@pytest.mark.parametrize("method", ["depth", "density"])
@pytest.mark.parametrize("name", ["sphere", "box"])
def test_bodies_come_out_closed_and_within_one_percent(name, method, seen, request):
    body, views = request.getfixturevalue(name), seen[name]
    # The density swells a body by about a deviation of its Gaussians: it needs finer cells.
    config = CONFIG.model_copy(update={"method": method, "grid": 112 if method == "depth" else 160})
    grid = place_grid(views, config)
    assert grid.contraction is None
    mesh = extract_surface(body.gaussians, views, grid, config, all_around=True)
    assert mesh.num_faces <= 6000 and parts(mesh)[0] == 1
    assert len(open_edges(mesh)) == 0
    assert body.error(mesh.vertices).mean() < 0.01 * body.size
    assert mesh.volume() == pytest.approx(body.volume, rel=0.06)


def test_the_texture_shows_what_the_renders_show(sphere, seen):
    grid = place_grid(seen["sphere"], CONFIG)
    mesh = extract_surface(sphere.gaussians, seen["sphere"], grid, CONFIG, all_around=True)
    stages = set()
    textured = texture_mesh(mesh, seen["sphere"], CONFIG, lambda stage, *_: stages.add(stage))
    assert stages == {"baking texture", "refining texture"}
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


def test_density_of_an_open_scene_keeps_only_what_is_seen(sphere):
    """Of a ball looked at from one side, the far half goes."""
    around = views_around(sphere.gaussians, 26, 96, 96)
    above = around.select((around.positions[:, 1] < -1).nonzero()[:, 0])
    views = see_surface(sphere.gaussians, above, 0.5)
    config = CONFIG.model_copy(update={"method": "density", "smoothing": 0})
    mesh = extract_surface(sphere.gaussians, views, place_grid(views, config), config)
    assert len(open_edges(mesh)) > 0
    assert mesh.vertices[:, 1].min() < -0.98 and mesh.vertices[:, 1].max() < 0.9


def test_scenes_that_make_no_mesh_are_refused_in_words(sphere, seen):
    good = sphere.gaussians
    check_scene(good, "a.ply")
    wrong = {
        "holds no Gaussians": good.select(torch.zeros(8000, dtype=torch.bool)),
        "opacities hold NaN": replace(good, opacities=good.opacities * torch.nan),
        "means hold NaN or infinite": replace(good, means=good.means / 0),
        "is transparent": replace(good, opacities=good.opacities * 1e-4),
    }
    for words, scene in wrong.items():
        with pytest.raises(UserError, match=rf"a\.ply: .*{words}"):
            check_scene(scene, "a.ply")
    views = seen["sphere"]
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
    with pytest.raises(UserError, match="shows nothing in 26 views"):
        see_surface(good, Cameras(away, views.cameras.intrinsics, 96, 96), 0.5)
