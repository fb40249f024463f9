from __future__ import annotations

import numpy as np
import torch

from data.cameras import Cameras, pixel_centres
from models.meshing.rasteriser import NEAR, draw, draw_atlas
from models.meshing.surface import Mesh


def trace(mesh: Mesh, camera: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Nearest face and z-depth by solving for each ray and triangle (Möller and Trumbore 1997)."""
    to_camera = camera.world_to_camera[0].double().numpy()
    local = mesh.vertices @ to_camera[:3, :3].T + to_camera[:3, 3]
    rays = (
        pixel_centres(camera.height, camera.width).numpy()
        @ np.linalg.inv(camera.intrinsics[0].double().numpy()).T
    )
    rays = rays.reshape(-1, 3)
    face, depth = np.full(len(rays), -1), np.full(len(rays), np.inf)
    for number, (a, b, c) in enumerate(local[mesh.faces]):
        for i, ray in enumerate(rays):
            matrix = np.stack([-ray, b - a, c - a], axis=1)
            if abs(np.linalg.det(matrix)) < 1e-12:
                continue
            t, p, q = np.linalg.solve(matrix, -a)
            if NEAR <= t < depth[i] and p >= 0 and q >= 0 and p + q <= 1:
                face[i], depth[i] = number, t
    return face.reshape(camera.height, -1), depth.reshape(camera.height, -1)


def test_pixels_show_what_rays_meet():
    """Triangles all about the camera: in part behind it, through its plane, across each other."""
    generator = np.random.default_rng(4)
    vertices = generator.uniform(-2, 2, size=(36, 3)) + np.array([0, 0, 0.6])
    mesh = Mesh(vertices, np.arange(36).reshape(-1, 3))
    intrinsics = torch.tensor([[20.0, 0, 13], [0, 24.0, 9], [0, 0, 1]])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    transform = torch.eye(4)
    transform[:3, :3] = turn * torch.linalg.det(turn)
    camera = Cameras(transform[None], intrinsics[None], 20, 28)
    drawn = draw(mesh, camera)
    face, depth = trace(mesh, camera)
    assert 0.2 < (face >= 0).mean() < 1 and len(np.unique(face)) > 5
    assert (drawn.face[0] == face).mean() > 0.995
    same = (drawn.face[0] == face) & (face >= 0)
    assert np.allclose(drawn.depth[0][same], depth[same], rtol=1e-5)
    assert np.isinf(drawn.depth[0][drawn.face[0] < 0]).all()
    # Interpolated vertex positions are the points that were hit.
    points = drawn.interpolate(mesh.faces, mesh.vertices)
    local = points @ transform[:3, :3].double().numpy().T
    pixels = local @ intrinsics.double().numpy().T
    rows, columns = np.nonzero(drawn.face[0] >= 0)
    near = local[:, 2] > 0.05
    assert np.allclose(pixels[near, 0] / pixels[near, 2], columns[near] + 0.5, atol=1e-3)
    assert np.allclose(pixels[near, 1] / pixels[near, 2], rows[near] + 0.5, atol=1e-3)


def test_shared_edges_have_no_cracks_and_views_do_not_mix(camera):
    """A quad of many triangles that fills the image, beside a view that looks away from it."""
    ticks = np.linspace(-3, 3, 14)
    x, y = np.meshgrid(ticks, ticks)
    vertices = np.stack([x, y, 2 + 0.3 * x], axis=-1).reshape(-1, 3)
    index = np.arange(len(vertices)).reshape(14, 14)
    a, b, c, d = (
        index[i : 13 + i, j : 13 + j].reshape(-1) for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    mesh = Mesh(vertices, np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)]))
    behind = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    both = Cameras(
        torch.stack([camera.world_to_camera[0], behind]),
        camera.intrinsics.expand(2, 3, 3),
        camera.height,
        camera.width,
    )
    drawn = draw(mesh, both)
    assert (drawn.face[0] >= 0).all() and (drawn.face[1] < 0).all()


def test_texels_are_counted_from_the_top_left():
    uvs = np.array([[0.25, 0.5], [0.75, 0.5], [0.25, 1.0]])
    drawn = draw_atlas(uvs, np.array([[0, 1, 2]]), 8)
    shown = drawn.face[0] == 0
    assert shown.sum() == 10 and not shown[:4].any() and not shown[:, :2].any()
    assert shown[4].tolist() == [False, False, True, True, True, True, False, False]
    places = drawn.interpolate(np.array([[0, 1, 2]]), uvs)
    rows, columns = np.nonzero(shown)
    assert np.allclose(places, (np.stack([columns, rows], 1) + 0.5) / 8, atol=1e-6)
