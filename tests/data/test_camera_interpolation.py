"""Cameras between cameras, against angles, lines and zooms worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from data.camera_interpolation import interpolate_cameras
from data.cameras import Cameras, intrinsics_from_fov


def turning_path(angles_deg: list[float], places: list[float]) -> Cameras:
    """Cameras on the x axis that turn about the y axis, each zoomed twice as far as the one before."""
    to_world = torch.eye(4, dtype=torch.float64).repeat(len(angles_deg), 1, 1)
    matrices = intrinsics_from_fov(50.0, 16, 24).double().repeat(len(angles_deg), 1, 1)
    for i, (angle, place) in enumerate(zip(angles_deg, places, strict=True)):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        to_world[i, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        to_world[i, 0, 3] = place
        matrices[i, :2, :2] *= 2**i
    return Cameras.from_camera_to_world(to_world, matrices, 16, 24)


def angles_of(cameras: Cameras) -> list[float]:
    forward = cameras.camera_to_world[:, :3, 2]
    return torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2])).tolist()


@pytest.mark.parametrize("positions", ["linear", "cubic"])
def test_a_line_at_even_speed_stays_one(positions):
    path = turning_path([0, 30, 60, 90], [0, 1, 2, 3])
    at = torch.tensor([0, 0.25, 1.5, 3])
    found = interpolate_cameras(path, at, positions=positions)
    assert found.positions[:, 0].tolist() == pytest.approx(at.tolist())
    assert angles_of(found) == pytest.approx([0, 7.5, 45, 90])
    focal = found.intrinsics[:, 0, 0] / path.intrinsics[0, 0, 0]
    assert focal.tolist() == pytest.approx([1, 1.25, 3, 8])


def test_times_need_not_be_even():
    path = turning_path([0, 40, 20], [0, 4, 2])
    found = interpolate_cameras(
        path, torch.tensor([10.0, 15, 40, 60]), torch.tensor([10.0, 20, 60])
    )
    assert found.positions[:, 0].tolist() == pytest.approx([0, 2, 3, 2])
    assert angles_of(found) == pytest.approx([0, 20, 30, 20])


def test_it_turns_the_shorter_way_round():
    found = interpolate_cameras(turning_path([170, -170], [0, 0]), torch.tensor([0.25, 0.75]))
    assert angles_of(found) == pytest.approx([175, -175])


def test_the_cubic_goes_through_its_views_and_never_overshoots():
    path = turning_path([0] * 6, [0, 0, 0, 1, 4, 4])
    found = interpolate_cameras(path, torch.linspace(0, 5, 101), positions="cubic").positions[:, 0]
    assert found[::20].tolist() == pytest.approx([0, 0, 0, 1, 4, 4])
    assert bool((found[:41] == 0).all()) and bool((found.diff() >= 0).all())
    # Speed changes gently; a polyline's changes by 0.15 from one step to the next.
    assert float(found.diff().diff().abs().max()) < 0.04


def test_outside_of_the_path_are_its_ends_and_one_view_is_everywhere():
    path = turning_path([10, 50], [1, 3])
    found = interpolate_cameras(path, torch.tensor([-1.0, 7.0]))
    assert angles_of(found) == pytest.approx([10, 50])
    one = interpolate_cameras(path.select(1), torch.tensor([0.0, 0.5, 2.0]))
    assert torch.equal(one.world_to_camera, path.world_to_camera[[1, 1, 1]])


def test_dtypes_stay():
    path = turning_path([0, 10], [0, 1]).to(torch.float32)
    found = interpolate_cameras(path, torch.tensor([0.5]), positions="cubic")
    assert found.world_to_camera.dtype == torch.float32 == found.intrinsics.dtype
