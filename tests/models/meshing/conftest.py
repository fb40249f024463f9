"""Bodies of known shape, as Gaussians that lie on their surfaces and as triangles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians, concatenate_gaussians, matrix_to_quat
from models.meshing.surface import Mesh

DISC, THICKNESS = 0.6, 0.15
"""Standard deviations of a disc along and across the surface, in spacings."""


@dataclass(frozen=True)
class Body:
    """Closed surfaces. error: distance of points to them. size: the longest side of all. parts: how many."""

    gaussians: Gaussians
    error: Callable[[np.ndarray], np.ndarray]
    size: float
    volume: float
    parts: int = 1


def surface_gaussians(points: Tensor, normals: Tensor, spacing: float) -> Gaussians:
    """Flat discs on a surface, so close that it is opaque, coloured by where they are."""
    across = torch.where(
        normals[:, :1].abs() < 0.9, torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    )
    first = torch.nn.functional.normalize(torch.linalg.cross(across, normals), dim=1)
    rotation = torch.stack([first, torch.linalg.cross(normals, first), normals], dim=-1)
    waves = torch.tensor([[5.0, 1, 0], [2, 7, 3], [1, 0, 6]])
    count = len(points)
    return Gaussians(
        means=points,
        quats=matrix_to_quat(rotation),
        scales=(spacing * torch.tensor([DISC, DISC, THICKNESS])).repeat(count, 1),
        opacities=torch.full((count,), 0.9),
        colors=0.5 + 0.4 * torch.sin(points @ waves),
    )


def sphere_gaussians(count: int, radius: float = 1.0) -> Gaussians:
    number = torch.arange(count) + 0.5
    turn, level = math.pi * (1 + math.sqrt(5)) * number, 1 - 2 * number / count
    wide = (1 - level.square()).sqrt()
    normals = torch.stack([wide * turn.cos(), wide * turn.sin(), level], dim=1)
    return surface_gaussians(radius * normals, normals, radius * math.sqrt(4 * math.pi / count))


def box_gaussians(count: int, sides: tuple[float, float, float]) -> Gaussians:
    size = torch.tensor(sides)
    area = 2 * float(size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    spacing = math.sqrt(area / count)
    points, normals = [], []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        ticks = [
            (torch.arange(n := max(1, round(sides[other] / spacing))) + 0.5) / n - 0.5
            for other in others
        ]
        for side in (-0.5, 0.5):
            first, second = (t.flatten() for t in torch.meshgrid(*ticks, indexing="ij"))
            face = torch.zeros(len(first), 3)
            face[:, others[0]], face[:, others[1]] = first, second
            face[:, axis] = side
            normal = torch.zeros(len(first), 3)
            normal[:, axis] = 2 * side
            points.append(face * size)
            normals.append(normal)
    return surface_gaussians(torch.cat(points), torch.cat(normals), spacing)


@pytest.fixture(scope="session")
def sphere() -> Body:
    """Radius 1."""
    return Body(
        sphere_gaussians(8000),
        lambda p: np.abs(np.linalg.norm(p, axis=1) - 1),
        2.0,
        4 / 3 * math.pi,
    )


@pytest.fixture(scope="session")
def box() -> Body:
    """1 x 1.4 x 0.8."""
    half = np.array([0.5, 0.7, 0.4])

    def error(points: np.ndarray) -> np.ndarray:
        beyond = np.abs(points) - half
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
        return np.abs(outside + np.minimum(beyond.max(axis=1), 0))

    return Body(box_gaussians(8000, (1.0, 1.4, 0.8)), error, 1.4, 1.0 * 1.4 * 0.8)


@pytest.fixture(scope="session")
def both(sphere, box) -> Body:
    """The sphere, made smaller, beside the box, far from the origin."""
    places = torch.tensor([[10.0, -4, 20], [11.3, -4, 20]])
    parts = [
        body.gaussians.transform(torch.eye(3), place, scale)
        for body, place, scale in zip((sphere, box), places, (0.5, 1.0), strict=True)
    ]

    def error(points: np.ndarray) -> np.ndarray:
        first, second = (points - place for place in places.numpy())
        return np.minimum(0.5 * sphere.error(first / 0.5), box.error(second))

    width = 0.5 + 1.3 + 0.5
    return Body(concatenate_gaussians(parts), error, width, sphere.volume / 8 + box.volume, parts=2)


@pytest.fixture
def ball_on_a_floor() -> tuple[Gaussians, Callable[[np.ndarray], np.ndarray], Cameras]:
    """A scene, the distance of points to its surfaces, and a path that sees a part of them."""
    radius, height, spacing = 0.6, 0.8, 0.04
    centre = torch.tensor([0.0, height - radius, 3.0])
    x, z = torch.arange(-2, 2, spacing), torch.arange(1.2, 5.5, spacing)
    points = torch.cartesian_prod(x, torch.tensor([height]), z)
    floor = surface_gaussians(points, torch.tensor([[0.0, -1, 0]]).expand(len(points), 3), spacing)
    count = round(4 * math.pi * (radius / spacing) ** 2)
    ball = sphere_gaussians(count, radius).transform(torch.eye(3), centre)

    def error(points: np.ndarray) -> np.ndarray:
        to_ball = np.abs(np.linalg.norm(points - centre.numpy(), axis=1) - radius)
        return np.minimum(to_ball, np.abs(points[:, 1] - height))

    first = Cameras(torch.eye(4)[None], intrinsics_from_fov(40.0, 96, 144)[None], 96, 144)
    return concatenate_gaussians([floor, ball]), error, make_path("orbit", first, 17, 25)


@pytest.fixture
def octahedron() -> Mesh:
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array(
        [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    )
    return Mesh(vertices, faces)


@pytest.fixture
def camera() -> Cameras:
    """One view of 48x64 from the origin along z."""
    return Cameras(torch.eye(4)[None], intrinsics_from_fov(50.0, 48, 64)[None], 48, 64)
