"""A scene with real texture whose photos, cameras and depth are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from skimage import data

from data.cameras import Cameras

HEIGHT, WIDTH, FOCAL = 240, 320, 300.0


@pytest.fixture(scope="session")
def room_cameras() -> Cameras:
    """Eight cameras side by side that turn a little, in float64."""
    t = np.linspace(-1, 1, 8)
    camera_to_world = np.tile(np.eye(4), (8, 1, 1))
    turns = np.stack([0.1 * t**2, 0.15 - 0.2 * t, 0.05 * t], axis=1)
    camera_to_world[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    camera_to_world[:, :3, 3] = np.stack(
        [0.8 * t, 0.1 * np.sin(4 * t), 0.2 * np.cos(3 * t)], axis=1
    )
    matrix = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Cameras.from_camera_to_world(
        torch.from_numpy(camera_to_world),
        torch.from_numpy(np.tile(matrix, (8, 1, 1))),
        HEIGHT,
        WIDTH,
    )


@pytest.fixture(scope="session")
def room(room_cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Photos [t h w 3] uint8 and z-depth [t h w] of a corner of a room, taken by `room_cameras`."""
    return corner_of_a_room(room_cameras.camera_to_world.numpy())


def corner_of_a_room(camera_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two walls and a floor with photographs on them, ray by ray in numpy alone."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea()]
    # Each plane: normal n and offset k with n . x = k, and the two axes along it.
    planes = [([0, 0, 1], 3.0, 0, 1), ([0, 1, 0], 1.0, 0, 2), ([1, 0, 0], 1.5, 2, 1)]
    photos, depths = [], []
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for transform in camera_to_world:
        local = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], -1)
        direction, origin = local @ transform[:3, :3].T, transform[:3, 3]
        depth = np.full(u.shape, np.inf)
        photo = np.zeros((HEIGHT, WIDTH, 3))
        for picture, (normal, offset, across, along) in zip(pictures, planes, strict=True):
            reach = (offset - origin @ normal) / (direction @ normal)
            nearer = (reach > 0) & (reach < depth)
            point = origin + reach[..., None] * direction
            where = [point[..., along] * 150 + 500, point[..., across] * 150 + 500]
            colour = np.stack(
                [
                    map_coordinates(c, where, order=1, mode="mirror")
                    for c in picture.T.swapaxes(1, 2)
                ],
                axis=-1,
            )
            photo[nearer], depth[nearer] = colour[nearer], reach[nearer]
        photos.append(photo)
        depths.append(depth)
    return np.stack(photos).astype(np.uint8), np.stack(depths)
