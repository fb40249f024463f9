"""Real captures, where they are: features of neighbouring photos must satisfy our cameras' epipolar
geometry, which nothing in our code has been fitted to, and must not satisfy that of a wrong convention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2gray
from skimage.feature import SIFT, match_descriptors

from data.cameras import Cameras
from data.clips import Clip
from data.importers.nerfstudio import read_nerfstudio

CAPTURES = Path(__file__).resolve().parents[3].parent / "shared/scenes"

# Capture, two neighbouring photos, and a size of about its proportions.
PAIRS = [
    ("assyrian_panel17", (6, 7), (400, 300)),
    ("brighton_beach", (6, 7), (281, 500)),
    ("lund_street", (3, 4), (300, 400)),
    ("mary_rose_tankard", (3, 4), (400, 400)),
]


def read_pair(name: str, pair: tuple[int, int], size: tuple[int, int], work: Path) -> Clip:
    """Only the two photos, through a file that names them where they lie."""
    folder = CAPTURES / name
    if not (folder / "transforms.json").is_file():
        pytest.skip(f"no capture {folder}")
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"] = [content["frames"][i] for i in pair]
    for frame in content["frames"]:
        frame["file_path"] = str(folder / frame["file_path"])
    (work / "transforms.json").write_text(json.dumps(content))
    return read_nerfstudio(work, *size)


def matches(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions [n 2] of matching SIFT features in the two frames."""
    found = []
    for frame in clip.frames:
        sift = SIFT(upsampling=1)
        sift.detect_and_extract(rgb2gray(frame.movedim(0, -1).numpy()))
        found.append(sift)
    pairs = match_descriptors(
        found[0].descriptors, found[1].descriptors, max_ratio=0.75, cross_check=True
    )
    # scikit-image gives (row, column) of pixel centres at whole numbers.
    return tuple(sift.keypoints[pairs[:, k], ::-1] + 0.5 for k, sift in enumerate(found))


def median_epipolar_distance(cameras: Cameras, first: np.ndarray, second: np.ndarray) -> float:
    """Symmetric: mean of the distances [px] of both points from their epipolar lines."""
    world_to_camera = cameras.world_to_camera.numpy()
    between = world_to_camera[1] @ np.linalg.inv(world_to_camera[0])
    x, y, z = between[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse = np.linalg.inv(cameras.intrinsics.numpy())
    fundamental = inverse[1].T @ cross @ between[:3, :3] @ inverse[0]
    a = np.concatenate([first, np.ones((len(first), 1))], axis=1)
    b = np.concatenate([second, np.ones((len(second), 1))], axis=1)
    in_second, in_first = a @ fundamental.T, b @ fundamental
    residual = np.abs((b * in_second).sum(axis=1))
    sizes = [np.hypot(line[:, 0], line[:, 1]) for line in (in_second, in_first)]
    return float(np.median(residual * (1 / sizes[0] + 1 / sizes[1]) / 2))


@pytest.mark.parametrize(("name", "pair", "size"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_epipolar_geometry_of_a_real_capture(
    name: str, pair: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    clip = read_pair(name, pair, size, tmp_path)
    first, second = matches(clip)
    assert len(first) >= 20
    assert median_epipolar_distance(clip.cameras, first, second) < 1.5

    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    as_opengl = Cameras.from_camera_to_world(
        clip.cameras.camera_to_world @ flip, clip.cameras.intrinsics, *size
    )
    inverted = Cameras(clip.cameras.camera_to_world, clip.cameras.intrinsics, *size)
    for wrong in (as_opengl, inverted):
        assert median_epipolar_distance(wrong, first, second) > 3
