"""Cameras a little beside others, that look at the same thing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras


def step_aside(
    cameras: Cameras, offsets: Float[Tensor, "v 3"], ahead: Float[Tensor, " v"] | float
) -> Cameras:
    """Each camera moved by its offset, in its own axes (right, down, ahead), and turned to the point it looked at.

    offsets: scene units. ahead: how far away that point is, along the camera's axis; what stands there stays in the
    middle of the picture. The camera does not roll.
    """
    to_world = cameras.camera_to_world
    away = torch.zeros_like(offsets)
    away[:, 2] = torch.as_tensor(ahead).to(offsets)
    forward = torch.nn.functional.normalize(away - offsets, dim=-1)
    down = offsets.new_tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    moved = torch.eye(4).to(offsets).repeat(len(offsets), 1, 1)
    moved[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    moved[:, :3, 3] = offsets
    return Cameras.from_camera_to_world(
        to_world @ moved.to(to_world), cameras.intrinsics, cameras.height, cameras.width
    )
