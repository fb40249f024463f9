"""Sparse depth from known cameras against the depth of the renderer that made the photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.cameras import Cameras
from data.clips import Clip
from data.importers.nerfstudio import read_nerfstudio, write_nerfstudio

Room = tuple[np.ndarray, np.ndarray]
"""Photos and depth of the fixture `room`."""


def write_capture(photos: np.ndarray, cameras: Cameras, folder: Path) -> Path:
    frames = torch.from_numpy(photos).movedim(-1, 1).float() / 255
    write_nerfstudio(Clip(frames, cameras, "made", len(frames)), folder)
    return folder


def test_depth_is_the_renderers_own(tmp_path: Path, room: Room, room_cameras: Cameras) -> None:
    far_away = room_cameras.rescaled(0.01)  # a file in centimetres: nothing may depend on the unit
    folder = write_capture(room[0], far_away, tmp_path / "capture")
    stages: list[str] = []
    clip = read_nerfstudio(
        folder, 240, 320, find_depth=True, progress=lambda stage, *_: stages.append(stage)
    )
    assert clip.depth is not None
    known = clip.depth > 0
    assert all(known[view].sum() > 30 for view in range(8))
    ratio = clip.depth[known] / torch.from_numpy(100 * room[1]).float()[known]
    assert ratio.median() == pytest.approx(1, abs=0.003)
    assert (ratio - 1).abs().quantile(0.9) < 0.02
    assert clip.normalised().scale == pytest.approx(100 * np.median(room[1][0]), rel=0.15)
    assert set(stages) == {"read images", "find features", "match pairs"}
    torch.testing.assert_close(clip.cameras.world_to_camera, far_away.world_to_camera)


def test_smaller_frames_get_the_same_points(
    tmp_path: Path, room: Room, room_cameras: Cameras
) -> None:
    """Points are found in the photos and only then put into frames of the size that is asked for."""
    folder = write_capture(room[0][:4], room_cameras.select(slice(0, 4)), tmp_path / "capture")
    clip = read_nerfstudio(folder, 24, 24, find_depth=True)
    assert clip.depth is not None
    cropped = room[1][0][:, 40:280].reshape(24, 10, 24, 10).swapaxes(1, 2)
    known = (clip.depth[0] > 0).numpy()
    assert known.sum() > 20
    # A pixel of the small frame covers 10 x 10 of the photo: the point is one that is in there.
    near, far = cropped.min(axis=(2, 3)) * 0.97, cropped.max(axis=(2, 3)) * 1.03
    depth = clip.depth[0].numpy()
    inside = (depth[known] >= near[known]) & (depth[known] <= far[known])
    assert inside.mean() > 0.95


def test_photos_without_features_give_no_depth(tmp_path: Path, room_cameras: Cameras) -> None:
    folder = write_capture(np.full((8, 240, 320, 3), 99, np.uint8), room_cameras, tmp_path / "fog")
    assert read_nerfstudio(folder, 48, 64, find_depth=True).depth is None
