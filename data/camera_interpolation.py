"""Cameras between the cameras of a path."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator, interp1d
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from data.cameras import Cameras

PositionCurve = Literal["linear", "cubic"]
"""How camera centres go from one view to the next: in straight lines, or along a cubic that never
overshoots (Fritsch and Carlson 1980), so that a camera that holds still does hold still."""


def interpolate_cameras(
    path: Cameras,
    at: Float[Tensor, " n"],
    times: Float[Tensor, " view"] | None = None,
    positions: PositionCurve = "linear",
) -> Cameras:
    """The cameras of an unbatched path at times `at`; before and after the path, its ends.

    times: of the path's views, increasing; None takes their indices, 0 to `view` - 1.

    Rotations go the shorter way round at even speed (slerp), intrinsics linearly.
    """
    if path.num_views == 1:
        return path.select([0] * len(at))
    if times is None:
        times = torch.arange(path.num_views)
    knots = times.double().numpy(force=True)
    wanted = np.clip(at.double().numpy(force=True), knots[0], knots[-1])
    to_world = path.camera_to_world.double().numpy(force=True)
    centres = to_world[:, :3, 3]
    curve = PchipInterpolator(knots, centres) if positions == "cubic" else _linear(knots, centres)
    transforms = np.tile(np.eye(4), (len(wanted), 1, 1))
    transforms[:, :3, :3] = Slerp(knots, Rotation.from_matrix(to_world[:, :3, :3]))(
        wanted
    ).as_matrix()
    transforms[:, :3, 3] = curve(wanted)
    intrinsics = _linear(knots, path.intrinsics.double().numpy(force=True))(wanted)
    return Cameras.from_camera_to_world(
        torch.from_numpy(transforms).to(path.world_to_camera),
        torch.from_numpy(intrinsics).to(path.intrinsics),
        path.height,
        path.width,
    )


def _linear(times: np.ndarray, values: np.ndarray) -> interp1d:
    return interp1d(times, values, axis=0)
