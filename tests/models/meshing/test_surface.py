from __future__ import annotations

import numpy as np
import pytest
import trimesh

from configs.errors import UserError
from models.meshing.grid import make_grid
from models.meshing.surface import (
    Mesh,
    cleaned,
    decimated,
    in_world,
    iso_surface,
    open_edges,
    parts,
    smoothed,
    with_neighbours,
    without_small_parts,
)


def volume(mesh: Mesh) -> float:
    """Enclosed volume, by trimesh; refuses a mesh that encloses nothing."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    return float(solid.volume)


def distances(centres: list[tuple[float, float, float]], radii: list[float], side: int = 40):
    """Signed distances to the union of balls, positive outside, and their grid over [-1, 1]^3."""
    grid = make_grid(np.full(3, -1.0), np.full(3, 1.0), side)
    axes = [low + grid.cell * np.arange(n) for low, n in zip(grid.lower, grid.shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    each = [np.linalg.norm(points - c, axis=-1) - r for c, r in zip(centres, radii, strict=True)]
    return np.min(each, axis=0).astype(np.float32), grid


def ball(radius: float = 0.7, side: int = 40) -> Mesh:
    values, grid = distances([(0.05, 0, -0.02)], [radius], side)
    return in_world(iso_surface(values, 0.0, inside_is_above=False), grid)


def test_a_ball_is_closed_faces_outward_and_has_its_volume():
    mesh = ball()
    assert len(open_edges(mesh)) == 0 and parts(mesh)[0] == 1
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)
    outward = mesh.vertices - [0.05, 0, -0.02]
    cosine = (mesh.normals() * outward).sum(1) / np.linalg.norm(outward, axis=1)
    assert cosine.min() > 0.97
    values, grid = distances([(0.05, 0, -0.02)], [0.7])
    other = in_world(iso_surface(-values, 0.0, inside_is_above=True), grid)
    assert volume(other) == pytest.approx(volume(mesh))


def test_the_surface_ends_where_values_are_not_known():
    values, grid = distances([(0, 0, 0)], [0.7])
    known = np.zeros(values.shape, bool)
    known[:, :, :20] = True
    mesh = iso_surface(values, 0.0, known=known, inside_is_above=False)
    assert mesh.vertices[:, 2].max() == 19  # the last known layer of nodes
    assert mesh.vertices[:, 2].min() == pytest.approx((-0.7 - grid.lower[2]) / grid.cell, abs=0.05)
    rim = mesh.vertices[mesh.faces[open_edges(mesh) // 3, open_edges(mesh) % 3]]
    assert len(rim) > 20 and (rim[:, 2] > 18.9).all()
    with pytest.raises(UserError, match=r"no surface: no value on the grid crosses 5"):
        iso_surface(values, 5.0, inside_is_above=False)
    with pytest.raises(UserError, match="no surface"):
        iso_surface(values, 0.0, known=np.zeros_like(known), inside_is_above=False)


def test_clean_up_joins_vertices_and_takes_folds_away(octahedron):
    doubled = np.concatenate([octahedron.vertices, octahedron.vertices])
    faces = octahedron.faces.copy()
    faces[::2] += 6
    fold = [[0, 1, 9], [1, 0, 9]]
    degenerate, equal = [[0, 6, 1]], [np.roll(faces[1], 1).tolist()]
    mesh = cleaned(Mesh(doubled, np.concatenate([faces, fold, degenerate, equal])))
    assert len(mesh.vertices) == 6 and mesh.num_faces == 8 and len(open_edges(mesh)) == 0
    assert volume(mesh) == pytest.approx(4 / 3)


def test_small_parts_go():
    values, grid = distances([(-0.3, 0, 0), (0.7, 0.6, 0.5)], [0.5, 0.1])
    mesh = iso_surface(values, 0.0, inside_is_above=False)
    assert parts(mesh)[0] == 2
    assert parts(without_small_parts(mesh, 0.02))[0] == 2
    large = without_small_parts(mesh, 0.1)
    assert parts(large)[0] == 1 and in_world(large, grid).vertices[:, 0].max() < 0.25


def test_decimation_and_smoothing_keep_shape_and_closedness():
    mesh = ball(side=56)
    coarse = decimated(mesh, 1500)
    assert 1000 < coarse.num_faces <= 1500 and len(open_edges(coarse)) == 0
    assert volume(coarse) == pytest.approx(volume(mesh), rel=0.01)
    assert decimated(coarse, 10_000) is coarse
    noise = np.random.default_rng(0).normal(scale=0.01, size=mesh.vertices.shape)
    rough = Mesh(mesh.vertices + noise, mesh.faces)
    smooth = smoothed(rough, 10)
    away = lambda m: np.linalg.norm(m.vertices - [0.05, 0, -0.02], axis=1) - 0.7  # noqa: E731
    assert away(smooth).std() < 0.5 * away(rough).std()
    assert volume(smooth) == pytest.approx(volume(mesh), rel=0.02)


def test_neighbours_are_told_by_rings(octahedron):
    one = np.zeros(8, bool)
    one[0] = True
    assert with_neighbours(octahedron, one, 0).sum() == 1
    assert with_neighbours(octahedron, one, 1).sum() == 7
    assert with_neighbours(octahedron, one, 2).sum() == 8
