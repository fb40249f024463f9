"""The camera of the video: through the given cameras, without jumps."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp

from data.cameras import Cameras, intrinsics_from_fov
from eval import flythrough
from models.gaussians import Gaussians


def path_of(num_views: int) -> tuple[Cameras, Rotation]:
    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(np.cumsum(0.2 * rng.standard_normal((num_views, 3)), axis=0))
    to_world = torch.eye(4).repeat(num_views, 1, 1)
    to_world[:, :3, :3] = torch.from_numpy(rotations.as_matrix()).float()
    to_world[:, 0, 3] = torch.arange(num_views) / 10
    intrinsics = intrinsics_from_fov(50.0, 16, 24).expand(num_views, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, 16, 24), rotations


def test_interpolation_equals_scipys():
    path, rotations = path_of(5)
    at = torch.tensor([0.0, 0.3, 1.0, 2.75, 4.0])
    found = flythrough.interpolate_cameras(path, at)
    expected = Slerp(np.arange(5), rotations)(at.numpy()).as_matrix()
    assert np.allclose(found.camera_to_world[:, :3, :3], expected, atol=1e-5)
    assert torch.allclose(found.positions[:, 0], at / 10, atol=1e-6)


def test_interpolation_of_a_still_camera_is_the_camera():
    path, _ = path_of(2)
    still = path.select([1, 1, 1])
    found = flythrough.interpolate_cameras(still, torch.tensor([0.0, 0.5, 1.9]))
    assert torch.allclose(found.world_to_camera, still.world_to_camera, atol=1e-6)


def test_the_flight_has_no_jumps_and_leaves_the_path():
    path, _ = path_of(9)
    flight = flythrough.flythrough_cameras(path)
    steps = (flight.positions[1:] - flight.positions[:-1]).norm(dim=-1)
    assert steps.max() < 0.05
    turns = flight.camera_to_world[1:, :3, 2] - flight.camera_to_world[:-1, :3, 2]
    assert turns.norm(dim=-1).max() < 0.1
    off_path = flight.positions[:, 1:].norm(dim=-1)  # the given cameras all lie on the x axis
    assert off_path.max() > 0.05


def test_frames_show_colour_beside_depth():
    path, _ = path_of(2)
    one = Gaussians(
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), 0.3),
        opacities=torch.tensor([0.99]),
        colors=torch.tensor([[1.0, 0.0, 0.0]]),
    )
    frames = list(flythrough.flythrough_frames(one, path.select([0, 0, 0]), at_once=2))
    assert len(frames) == 3 and frames[0].shape == (3, 256, 768)
    red, green, _ = frames[0][:, 128, 192]
    assert red > 0.9 and green < 0.1
