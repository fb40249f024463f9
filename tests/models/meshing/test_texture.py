"""Unwrapping, baking, filling and refining: from pictures of a mesh back to its texture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data.cameras import Cameras
from models.meshing.atlas_fill import fill_texture, spread_outward
from models.meshing.baking import bake_texture
from models.meshing.rasteriser import draw, draw_atlas
from models.meshing.surface import Mesh
from models.meshing.surface_views import SurfaceViews
from models.meshing.texture_fit import TextureViews, look_up_texels, refine_texture, texture_views
from models.meshing.unwrap import Unwrapped, unwrap
from models.meshing.views import views_around

SIZE = 128


def painted(points: np.ndarray) -> Tensor:
    """Colour by place in the world."""
    return 0.5 + 0.4 * torch.sin(torch.from_numpy(points) * torch.tensor([3.0, 4.0, 5.0])).float()


def views_of(mesh: Mesh, cameras: Cameras) -> SurfaceViews:
    """Pictures of a mesh painted by place."""
    drawn = draw(mesh, cameras)
    frames = torch.full((*drawn.face.shape, 3), 0.5)
    frames[torch.from_numpy(drawn.face >= 0)] = painted(
        drawn.interpolate(mesh.faces, mesh.vertices)
    )
    return SurfaceViews(cameras, frames.movedim(-1, 1), torch.from_numpy(drawn.depth))


@pytest.fixture
def unwrapped(octahedron) -> Unwrapped:
    return unwrap(octahedron, SIZE)


@pytest.fixture
def views(octahedron, sphere) -> SurfaceViews:
    return views_of(octahedron, views_around(sphere.gaussians, 12, 80, 80))


def test_charts_cover_the_surface_once(octahedron, unwrapped):
    uvs, mesh = unwrapped.uvs, unwrapped.mesh
    assert (uvs >= 0).all() and (uvs <= 1).all()
    assert np.array_equal(mesh.vertices, octahedron.vertices[unwrapped.source])
    same = np.sort(mesh.corners().reshape(8, 9), axis=0)
    assert np.array_equal(same, np.sort(octahedron.corners().reshape(8, 9), axis=0))
    a, b, c = uvs[mesh.faces].swapaxes(0, 1)
    area = 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    drawn = draw_atlas(uvs, mesh.faces, 1024)
    texels = np.bincount(drawn.face[drawn.face >= 0], minlength=8) / 1024**2
    assert np.allclose(texels, area, rtol=0.02) and area.sum() > 0.3


def test_baking_finds_the_paint_and_only_what_shows(unwrapped, views):
    texture, known = bake_texture(unwrapped, views, SIZE)
    atlas = draw_atlas(unwrapped.uvs, unwrapped.mesh.faces, SIZE)
    on_mesh = torch.from_numpy(atlas.face[0] >= 0)
    assert (known <= on_mesh).all() and known.sum() > 0.98 * on_mesh.sum()
    true = torch.zeros(SIZE, SIZE, 3)
    true[on_mesh] = painted(atlas.interpolate(unwrapped.mesh.faces, unwrapped.mesh.vertices))
    assert (texture.movedim(0, -1) - true)[known].abs().mean() < 0.02
    one = SurfaceViews(views.cameras.select(0), views.frames[:1], views.depth[:1])
    _, seen = bake_texture(unwrapped, one, SIZE)
    faces = draw(unwrapped.mesh, views.cameras.select(0)).face
    shown = set(faces[faces >= 0].tolist())
    assert set(atlas.face[0][seen.numpy()].tolist()) <= shown and 1 <= len(shown) <= 4


def test_what_stands_behind_gets_no_colour_of_what_hides_it(camera):
    def quad(depth: float, half: float) -> np.ndarray:
        return np.array(
            [[-half, -half, depth], [half, -half, depth], [half, half, depth], [-half, half, depth]]
        )

    faces = np.array([[0, 2, 1], [0, 3, 2]])  # toward the camera
    mesh = Mesh(np.concatenate([quad(1, 0.2), quad(2, 1.5)]), np.concatenate([faces, faces + 4]))
    views = views_of(mesh, camera)
    unwrapped = unwrap(mesh, SIZE)
    _, known = bake_texture(unwrapped, views, SIZE)
    atlas = draw_atlas(unwrapped.uvs, unwrapped.mesh.faces, SIZE)
    on_mesh = atlas.face[0] >= 0
    points = atlas.interpolate(unwrapped.mesh.faces, unwrapped.mesh.vertices)
    hidden = (points[:, 2] > 1.5) & (np.abs(points[:, :2]).max(1) < 0.36)
    clear = (points[:, 2] > 1.5) & (np.abs(points[:, :2]).max(1) > 0.44)
    clear &= (np.abs(points[:, 0]) < 1.1) & (np.abs(points[:, 1]) < 0.85)
    found = known.numpy()[on_mesh]
    assert hidden.sum() > 50 and not found[hidden].any()
    assert clear.sum() > 200 and found[clear].all()


def test_filling_takes_the_nearest_of_the_surface_and_leaves_no_gap(unwrapped, views):
    texture, known = bake_texture(unwrapped, views, SIZE)
    atlas = draw_atlas(unwrapped.uvs, unwrapped.mesh.faces, SIZE)
    hole = torch.from_numpy(atlas.face[0] == 2)
    part = known & ~hole
    filled = fill_texture(torch.where(part, texture, 0.0), part, unwrapped)
    assert torch.equal(filled[:, part], texture[:, part])
    assert filled.min() > 0.05  # nothing stays black
    error = (filled - texture)[:, hole & known].abs().mean()
    assert error < (texture[:, hole & known] - texture[:, part].mean(1, keepdim=True)).abs().mean()
    nothing = fill_texture(texture, torch.zeros_like(known), unwrapped)
    assert (nothing == 0.5).all()
    spread = spread_outward(torch.eye(4).expand(3, 4, 4), torch.eye(4, dtype=torch.bool))
    assert (spread == 1).all()


def test_refinement_solves_the_least_squares_problem():
    """Against a dense solution, in float64; the look-up's own gradient against finite differences."""
    generator = torch.Generator().manual_seed(0)
    size, shape = 6, (3, 4, 5)
    views = TextureViews(
        torch.rand(*shape, 2, generator=generator), torch.rand(shape, generator=generator) > 0.2
    )
    start, targets = (
        torch.rand(*s, generator=generator).double() for s in ((3, size, size), (3, 3, 4, 5))
    )
    weights = torch.rand(shape, generator=generator).double()
    hold, smooth = 0.05, 0.2
    refined = refine_texture(
        start, views, targets, weights=weights, steps=200, hold=hold, smooth=smooth
    )
    uvs = views.uvs[views.covered]
    basis = torch.eye(size * size).double().reshape(-1, 1, size, size).expand(-1, 3, -1, -1)
    matrix = torch.stack([look_up_texels(part, uvs)[:, 0] for part in basis], dim=1)
    weight = weights[views.covered].sqrt()[:, None]
    differences = []
    for dim in (2, 3):
        differences.append(basis[:, :1].diff(dim=dim).flatten(1).T)
    penalty = torch.cat(
        [hold**0.5 * torch.eye(size * size).double(), *(smooth**0.5 * d for d in differences)]
    )
    for channel in range(3):
        residual = targets[:, channel][views.covered] - matrix @ start[channel].flatten()
        right = torch.cat([weight[:, 0] * residual, torch.zeros(len(penalty)).double()])
        change = torch.linalg.lstsq(torch.cat([weight * matrix, penalty]), right[:, None]).solution[
            :, 0
        ]
        best = (start[channel].flatten() + change).clamp(0, 1)
        assert torch.allclose(refined[channel].flatten(), best, atol=1e-8)
    assert torch.autograd.gradcheck(
        lambda t: look_up_texels(t, uvs[:7]), start.clone().requires_grad_()
    )


def test_refinement_brings_the_pictures_nearer(octahedron, unwrapped, views):
    texture, known = bake_texture(unwrapped, views, SIZE)
    rough = (fill_texture(texture, known, unwrapped) + 0.1 * torch.randn(3, SIZE, SIZE)).clamp(0, 1)
    on_texture = texture_views(unwrapped, draw(unwrapped.mesh, views.cameras))
    shown = views.frames * on_texture.covered[:, None]

    def error(candidate: Tensor) -> float:
        return float((on_texture.look_up(candidate) - shown).square().mean())

    steps = []
    refined = refine_texture(
        rough, on_texture, views.frames, steps=10, hold=0.01, smooth=0.1,
        on_progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert error(refined) < 0.05 * error(rough)
    assert steps == [(i + 1, 10) for i in range(10)]
    assert refined.min() >= 0 and refined.max() <= 1
