"""Cameras of files for frames of a given size: in pixels of those frames, whatever they were cropped from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from eval.cameras.commanded import commanded_cameras

TRANSFORMS = [
    np.hstack([Rotation.from_rotvec([0, 0.02 * view, 0]).as_matrix(), [[0.1 * view], [0], [0]]])
    for view in range(5)
]


def realestate10k(path, focal: tuple[float, float], centre: tuple[float, float] = (0.5, 0.5)):
    """A file of five world-to-camera rows, focal lengths and centre in shares of the picture."""
    rows = ["https://example.org/video"]
    for number, matrix in enumerate(TRANSFORMS):
        numbers = [number * 1000, *focal, *centre, 0, 0, *matrix.flatten()]
        rows.append(" ".join(f"{value:.9g}" for value in numbers))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_file_for_pictures_of_the_same_proportions(tmp_path) -> None:
    """480x720 and 64x96: shares of the sides say all."""
    cameras, notes = commanded_cameras(
        realestate10k(tmp_path / "path.txt", (0.6, 0.9), (0.5, 0.48)), 5, (64, 96)
    )
    assert notes == [] and cameras.num_views == 5 and cameras.intrinsics.dtype == torch.float64
    expected = torch.tensor([[57.6, 0, 48.0], [0, 57.6, 30.72], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(cameras.intrinsics, expected.expand(5, 3, 3), atol=1e-6)
    found = cameras.world_to_camera[:, :3].numpy()
    assert found == pytest.approx(np.stack(TRANSFORMS), abs=1e-6)


def test_frames_are_the_centred_part_of_a_wider_picture(tmp_path) -> None:
    """A point's pixel in the 720x1280 picture, resized to the frames' height and cropped, step by step."""
    focal_px = 1000.0
    path = realestate10k(tmp_path / "path.txt", (focal_px / 1280, focal_px / 720))
    cameras, notes = commanded_cameras(path, 5, (64, 64))
    assert len(notes) == 1 and "1.78 times as wide as high" in notes[0]
    point = np.array([0.2, -0.1, 2.0])
    shrink = 64 / 720
    for view, matrix in enumerate(TRANSFORMS):
        x, y, z = matrix @ [*point, 1]
        u = (focal_px * x / z + 640) * shrink - (1280 * shrink - 64) / 2
        v = (focal_px * y / z + 360) * shrink
        pixel, _ = cameras.select(view).project(torch.from_numpy(point)[None])
        assert pixel[0, 0].tolist() == pytest.approx([u, v], abs=1e-4)


def test_frames_are_the_centred_part_of_a_taller_picture(tmp_path) -> None:
    path = realestate10k(tmp_path / "path.txt", (0.8, 0.8))  # square
    cameras, notes = commanded_cameras(path, 5, (64, 96))
    assert len(notes) == 1
    expected = torch.tensor([[76.8, 0, 48], [0, 76.8, 32], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(cameras.intrinsics[0], expected, atol=1e-6)


def test_a_field_of_view_takes_the_place_of_the_files_focal_length(tmp_path) -> None:
    path = realestate10k(tmp_path / "path.txt", (0.6, 0.9))
    cameras, _ = commanded_cameras(path, 5, (64, 96), fov_deg=60.0)
    focal = 32 / math.tan(math.radians(30))
    assert cameras.intrinsics[2, 0, 0].item() == pytest.approx(focal, rel=1e-6)


def test_a_file_without_focal_length_needs_one(tmp_path) -> None:
    path = tmp_path / "orbit.txt"
    path.write_text("0 10 20\n0 0 0\n0 0.1 0.2\n")
    with pytest.raises(UserError, match=r"orbit.txt tells no focal length; .* --fov"):
        commanded_cameras(path, 9, (64, 96))
    cameras, _ = commanded_cameras(path, 9, (64, 96), fov_deg=50.0)
    assert cameras.num_views == 9 and (cameras.height, cameras.width) == (64, 96)


def test_there_has_to_be_a_camera_a_frame(tmp_path) -> None:
    path = realestate10k(tmp_path / "path.txt", (0.6, 0.9))
    with pytest.raises(UserError, match="path.txt has 5 cameras for 9 frames"):
        commanded_cameras(path, 9, (64, 96))
    with pytest.raises(UserError, match=r"missing.txt can't be read"):
        commanded_cameras(tmp_path / "missing.txt", 9, (64, 96))
