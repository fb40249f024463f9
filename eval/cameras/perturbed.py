"""Commanded cameras made wrong by known amounts: what a camera error has to find again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras

Kind = Literal["jitter", "drift"]
KINDS: Mapping[Kind, str] = {
    "jitter": "each camera by itself, all by as much",
    "drift": "all about one axis and in one direction, growing with time",
}
STRENGTHS = ((1.0, 0.05), (2.0, 0.1), (5.0, 0.2), (10.0, 0.4))
"""Levels 1 to 4: degrees that a camera is turned by and shares of the path's span that it is moved by, on average
over the cameras after the first, which stays."""


def perturbed(cameras: Cameras, kind: Kind, level: int, seed: int) -> Cameras:
    """The cameras, turned and moved by `STRENGTHS[level - 1]`, about the same axes and the same way at every level.

    Level 0 leaves them as they are. float64.
    """
    exact = cameras.to(torch.float64)
    if level == 0:
        return exact
    degrees, share = STRENGTHS[level - 1]
    count = cameras.num_views - 1
    rng = np.random.default_rng(seed)
    size = (2, count if kind == "jitter" else 1, 3)
    directions = rng.normal(size=size)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    weights = np.ones(count) if kind == "jitter" else 2 * np.arange(1, count + 1) / (count + 1)
    axes, ways = directions * weights[:, None]
    to_world = exact.camera_to_world.clone()
    span = float((exact.positions - exact.positions[0]).norm(dim=-1).max())
    turns = Rotation.from_rotvec(np.deg2rad(degrees) * axes).as_matrix()
    to_world[1:, :3, :3] = torch.from_numpy(turns) @ to_world[1:, :3, :3]
    to_world[1:, :3, 3] += share * span * torch.from_numpy(ways)
    return Cameras.from_camera_to_world(to_world, exact.intrinsics, exact.height, exact.width)
