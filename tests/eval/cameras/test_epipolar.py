"""Epipolar geometry against projected points and against numpy's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras
from eval.cameras.epipolar import (
    baseline_is_zero,
    fundamental_matrix,
    matched_distances,
    symmetric_epipolar_distances,
)


def two_cameras(turn: list[float], place: list[float]) -> tuple[Cameras, Cameras]:
    """Cameras with different lenses; the second turned and moved against the first."""
    to_world = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    to_world[1, :3, :3] = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix())
    to_world[1, :3, 3] = torch.tensor(place, dtype=torch.float64)
    matrices = torch.tensor(
        [[[60.0, 0, 24], [0, 55, 16], [0, 0, 1]], [[90.0, 0, 20], [0, 80, 18], [0, 0, 1]]],
        dtype=torch.float64,
    )
    both = Cameras.from_camera_to_world(to_world, matrices, 32, 48)
    return both.select(0), both.select(1)


def projections(first: Cameras, second: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    points = points * torch.tensor([2.0, 1.5, 3.0]) + torch.tensor([-1.0, -0.7, 3.0])
    return first.project(points)[0][0], second.project(points)[0][0]


def test_projections_of_points_lie_on_their_epipolar_lines() -> None:
    first, second = two_cameras([0.1, -0.2, 0.05], [0.5, 0.1, -0.3])
    points = projections(first, second)
    assert matched_distances(first, second, points).max() < 1e-9
    # And not on those of a camera that stands elsewhere.
    assert (
        matched_distances(first, two_cameras([0.1, -0.2, 0.05], [0.1, 0.5, 0.3])[1], points).max()
        > 3
    )


def test_distances_are_those_of_points_from_lines() -> None:
    """Written out point by point, from x2^T F x1 = 0 alone."""
    first, second = two_cameras([0.1, -0.2, 0.05], [0.5, 0.1, -0.3])
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0, 40, (2, 25, 2))
    matrix = fundamental_matrix(first, second).numpy()
    expected = []
    for (x1, y1), (x2, y2) in zip(one, two, strict=True):
        a, b, c = matrix @ [x1, y1, 1]
        in_second = abs(a * x2 + b * y2 + c) / np.sqrt(a * a + b * b)
        a, b, c = matrix.T @ [x2, y2, 1]
        expected.append((in_second + abs(a * x1 + b * y1 + c) / np.sqrt(a * a + b * b)) / 2)
    found = symmetric_epipolar_distances(
        torch.from_numpy(matrix), torch.from_numpy(one), torch.from_numpy(two)
    )
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_cameras_in_one_place_send_each_point_to_one_place() -> None:
    first, second = two_cameras([0.1, -0.2, 0.05], [0, 0, 0])
    assert baseline_is_zero(first, second)
    points = projections(first, second)
    assert matched_distances(first, second, points).max() < 1e-9
    shifted = (points[0], points[1] + torch.tensor([3.0, 4.0]))
    distances = matched_distances(first, second, shifted)
    # 5 px in the second picture, and 5 times the ratio of focal lengths, about 2/3, in the first.
    assert float(distances.min()) > 3.8 and float(distances.max()) < 4.6


def test_a_point_behind_a_turned_camera_is_a_picture_away() -> None:
    first, second = two_cameras([0, np.pi, 0], [0, 0, 0])
    points = torch.tensor([[24.0, 16.0]], dtype=torch.float64)
    assert float(matched_distances(first, second, (points, points))) == pytest.approx(
        np.hypot(32, 48)
    )


def test_a_point_at_the_epipole_is_nowhere_wrong() -> None:
    first, second = two_cameras([0, 0, 0], [0, 0, 1.0])
    epipoles = torch.tensor([[24.0, 16.0]], dtype=torch.float64)
    elsewhere = torch.tensor([[20.0, 18.0]], dtype=torch.float64)
    assert float(matched_distances(first, second, (epipoles, elsewhere))) == 0.0
