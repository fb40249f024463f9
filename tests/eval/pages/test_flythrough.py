"""The camera of the video: through the given cameras, without jumps."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras, intrinsics_from_fov
from eval.pages import flythrough
from models.gaussians import Gaussians


def path_of(num_views: int) -> Cameras:
    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(np.cumsum(0.2 * rng.standard_normal((num_views, 3)), axis=0))
    to_world = torch.eye(4).repeat(num_views, 1, 1)
    to_world[:, :3, :3] = torch.from_numpy(rotations.as_matrix()).float()
    to_world[:, 0, 3] = torch.arange(num_views) / 10
    intrinsics = intrinsics_from_fov(50.0, 16, 24).expand(num_views, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, 16, 24)


def test_the_flight_has_no_jumps_and_leaves_the_path():
    path = path_of(9)
    flight = flythrough.flythrough_cameras(path)
    steps = (flight.positions[1:] - flight.positions[:-1]).norm(dim=-1)
    assert steps.max() < 0.05
    turns = flight.camera_to_world[1:, :3, 2] - flight.camera_to_world[:-1, :3, 2]
    assert turns.norm(dim=-1).max() < 0.1
    off_path = flight.positions[:, 1:].norm(dim=-1)  # the given cameras all lie on the x axis
    assert off_path.max() > 0.05


def test_frames_show_colour_beside_depth():
    path = path_of(2)
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
