"""R_err and T_err of paths whose errors are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras
from eval.cameras.path_error import error_line, moves, path_error, rotation_angles
from eval.scores.measured import NotAvailable


def cameras(positions: np.ndarray, turns: np.ndarray) -> Cameras:
    """Cameras at `positions` [v 3], turned by the rotation vectors `turns` [v 3]."""
    to_world = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    to_world[:, :3, :3] = torch.from_numpy(Rotation.from_rotvec(turns).as_matrix())
    to_world[:, :3, 3] = torch.from_numpy(positions)
    matrix = torch.tensor([[50.0, 0, 24], [0, 50, 16], [0, 0, 1]], dtype=torch.float64)
    return Cameras.from_camera_to_world(to_world, matrix.expand(len(positions), 3, 3), 32, 48)


@pytest.fixture(scope="module")
def path() -> Cameras:
    """Six cameras, the first of them anywhere; the largest distance from it is 2."""
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(6, 3))
    positions = positions[0] + (positions - positions[0]) * np.linspace(0, 1, 6)[:, None]
    away = np.linalg.norm(positions - positions[0], axis=1).max()
    positions = positions[0] + (positions - positions[0]) * 2 / away
    return cameras(positions, rng.normal(size=(6, 3)))


def test_a_path_in_other_axes_and_another_unit_has_no_error(path: Cameras) -> None:
    """What structure from motion gives: the same path after any similarity."""
    similar = path.camera_to_world.clone()
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix())
    similar[:, :3, 3] *= 7.5
    move[:3, 3] = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    found = Cameras.from_camera_to_world(move @ similar, path.intrinsics, 32, 48)
    error = path_error(found, path, range(6))
    assert error.r_err_deg == pytest.approx(0, abs=1e-9)
    assert error.t_err == pytest.approx(0, abs=1e-12)


def test_known_turns_and_shifts_are_told_by_every_name(path: Cameras) -> None:
    """Cameras turned on the spot by 1, 2, .. 5 degrees, then moved by a tenth of the span each."""
    to_world = path.camera_to_world.clone()
    turns = torch.from_numpy(
        Rotation.from_rotvec(np.deg2rad(np.arange(6))[:, None] * [[0.6, 0.0, 0.8]]).as_matrix()
    )
    to_world[:, :3, :3] = to_world[:, :3, :3] @ turns
    farthest = int((path.positions - path.positions[0]).norm(dim=-1).argmax())
    shift = torch.tensor([0.0, 0.12, 0.16], dtype=torch.float64)  # 0.2 long, a tenth of 2
    for view in range(1, 6):
        if view != farthest:  # so that the span stays what it is
            to_world[view, :3, 3] += shift
    error = path_error(
        Cameras.from_camera_to_world(to_world, path.intrinsics, 32, 48), path, range(6)
    )
    assert error.rotation_deg == pytest.approx((1, 2, 3, 4, 5), abs=1e-9)
    assert isinstance(error.translation, tuple)
    assert sum(error.translation) == pytest.approx(0.4, abs=1e-9)
    line = error_line(error)
    assert line["r_err_deg"] == 3 and line["r_err_rad"] == round(math.radians(3), 4)
    assert line["r_err_sum_rad"] == round(math.radians(15), 4)
    assert line["t_err"] == 0.08 and line["t_err_sum"] == 0.4


def test_paths_are_measured_over_the_views_that_both_have(path: Cameras) -> None:
    """Without the first view and the farthest: both paths get a new reference and a new span."""
    views = [1, 2, 4]
    error = path_error(path.select(views).rescaled(0.1), path, views)
    assert error.views == (1, 2, 4) and len(error.rotation_deg) == 2
    assert error.t_err == pytest.approx(0, abs=1e-12)


def test_a_camera_that_stands_still_is_as_far_off_as_the_path_is_long(path: Cameras) -> None:
    """Its tiny wander must not be blown up to the size of the commanded path."""
    wander = path.camera_to_world.clone()
    wander[:, :3, 3] = 1e-3 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    found = Cameras.from_camera_to_world(wander, path.intrinsics, 32, 48)
    error = path_error(found, path, range(6), found_moves=False)
    relative = path.relative_to(0).positions
    expected = float((relative.norm(dim=-1) / relative.norm(dim=-1).max())[1:].mean())
    assert error.t_err == pytest.approx(expected, abs=1e-9)
    assert error.r_err_deg == pytest.approx(0, abs=1e-6)


def test_without_commanded_motion_there_is_no_translation_error() -> None:
    turns = np.linspace(0, 0.4, 5)[:, None] * [[0, 1, 0]]
    pan = cameras(np.zeros((5, 3)), turns)
    assert not moves(pan)
    error = path_error(pan, pan, range(5))
    assert isinstance(error.t_err, NotAvailable) and "do not move" in error.t_err.why
    assert error.r_err_deg == pytest.approx(0, abs=1e-6)
    assert error_line(error)["t_err"] == {"not_available": error.t_err.why}


def test_no_error_has_the_same_keys() -> None:
    path = cameras(np.arange(9.0).reshape(3, 3), np.zeros((3, 3)))
    line = error_line(NotAvailable("it failed"))
    assert set(line) == set(error_line(path_error(path, path, range(3))))
    assert all(value == {"not_available": "it failed"} for value in line.values())


def test_angles_are_exact_where_the_arc_cosine_is_not() -> None:
    expected = torch.tensor([0.0, 1e-9, 1e-3, 1.0, math.pi - 1e-6], dtype=torch.float64)
    turns = Rotation.from_rotvec(expected[:, None].numpy() * [[2 / 3, -1 / 3, 2 / 3]])
    found = rotation_angles(torch.from_numpy(turns.as_matrix()))
    assert (found - expected).abs().max() < 1e-12
