"""Paths of captures, against pycolmap and by hand; placing, resampling, jumps, and the list of it all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.camera_paths import PATHS, make_path
from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from data.importers.nerfstudio import write_nerfstudio
from data.importers.path_files import FORMATS, describe_paths, find_format, load_camera_path
from data.importers.recorded_path import RecordedPath

HEIGHT, WIDTH = 48, 96


def base_camera() -> Cameras:
    """A photograph's camera that is not at the origin."""
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.2, -0.4, 0.1]).as_matrix())
    transform[:3, 3] = torch.tensor([3.0, -2, 5])
    matrix = intrinsics_from_fov(60.0, HEIGHT, WIDTH).double()[None]
    return Cameras(transform[None], matrix, HEIGHT, WIDTH)


def reconstruction() -> pycolmap.Reconstruction:
    """Seven cameras on an arc, the last one zoomed in, in a model that pycolmap made."""
    model = pycolmap.Reconstruction()
    for i in range(7):
        focal = 140.0 if i == 6 else 70.0
        camera = pycolmap.Camera(
            camera_id=i + 1, model="PINHOLE", width=80, height=60, params=[focal, focal, 40, 30]
        )
        model.add_camera_with_trivial_rig(camera)
        rotation = Rotation.from_rotvec([0.02 * i, 0.1 * i, 0.3])
        pose = pycolmap.Rigid3d(
            pycolmap.Rotation3d(rotation.as_quat()), np.array([-0.2 * i, 0.1, 1 + 0.05 * i])
        )
        # Names sort as numbers: image 10 comes after image 9.
        image = pycolmap.Image(name=f"{i + 4}.jpg", camera_id=i + 1, image_id=i + 1)
        model.add_image_with_trivial_frame(image, pose)
    return model


@pytest.mark.parametrize("text", [False, True])
def test_colmap_moves_as_pycolmap_says(tmp_path: Path, text: bool) -> None:
    model = reconstruction()
    folder = tmp_path / "sparse/0"
    folder.mkdir(parents=True)
    (model.write_text if text else model.write_binary)(folder)
    assert find_format(tmp_path) == "colmap"
    base = base_camera()
    path = load_camera_path(tmp_path, base, scale=2.0)
    poses = [
        model.images[i + 1].cam_from_world() * model.images[1].cam_from_world().inverse()
        for i in range(7)
    ]
    for view, pose in enumerate(poses):
        moved = path.world_to_camera[view] @ torch.linalg.inv(base.world_to_camera[0])
        assert np.allclose(moved[:3, :3], pose.rotation.matrix(), atol=1e-9)
        assert np.allclose(moved[:3, 3], pose.translation / 2, atol=1e-9)
    focal = path.intrinsics[:, 0, 0] / base.intrinsics[0, 0, 0]
    assert focal.tolist() == pytest.approx([1] * 6 + [2])


def transforms_file(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Three OpenGL cameras: at (1, 2, 3), one step back, one up, without any image."""
    frames = []
    for place in ([1, 2, 3], [1, 2, 3.2], [1, 2.1, 3.2]):
        rows = np.eye(4)
        rows[:3, 3] = place
        frames.append({"file_path": "images/a.png", "transform_matrix": rows.tolist()})
    content = {"fl_x": 50, "fl_y": 50, "w": 80, "h": 60, "frames": frames, **(changes or {})}
    path = folder / "transforms.json"
    path.write_text(json.dumps(content))
    return path


def test_transforms_need_no_images(tmp_path: Path) -> None:
    file = transforms_file(tmp_path)
    assert find_format(file) == "transforms" == find_format(tmp_path)
    base = base_camera()
    path = load_camera_path(tmp_path, base)
    local = path.relative_to(0).positions
    expected = torch.tensor([[0, 0, 0], [0, 0, -0.2], [0, -0.1, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(local, expected, atol=1e-12, rtol=0)
    assert torch.equal(path.intrinsics, base.intrinsics.expand(3, 3, 3))


def test_transforms_zoom_whatever_the_frames_sizes(tmp_path: Path) -> None:
    frames = json.loads(transforms_file(tmp_path).read_text())["frames"]
    frames[1] |= {"w": 160, "h": 120, "fl_x": 100, "fl_y": 100}  # the same lens, twice the size
    frames[2] |= {"w": 160, "h": 120, "fl_x": 300, "fl_y": 300, "cx": 120}
    path = load_camera_path(transforms_file(tmp_path, {"frames": frames}), base_camera())
    focal = path.intrinsics[:, 0, 0] / path.intrinsics[0, 0, 0]
    assert focal.tolist() == pytest.approx([1, 1, 3])
    assert float(path.intrinsics[2, 0, 2] - path.intrinsics[0, 0, 2]) == pytest.approx(WIDTH / 4)


def test_angles_need_neither_size_nor_image_but_pixels_do(tmp_path: Path) -> None:
    frames = json.loads(transforms_file(tmp_path).read_text())["frames"]
    file = tmp_path / "transforms.json"
    frames[2]["camera_angle_x"] = 2 * math.atan(0.25)
    file.write_text(json.dumps({"camera_angle_x": 2 * math.atan(0.5), "frames": frames}))
    path = load_camera_path(file, base_camera())
    focal = path.intrinsics[:, 1, 1] / path.intrinsics[0, 1, 1]
    assert focal.tolist() == pytest.approx([1, 1, 2])
    file.write_text(json.dumps({"fl_x": 50, "frames": frames}))
    with pytest.raises(UserError, match=r"a\.png"):
        load_camera_path(file, base_camera())
    with pytest.raises(UserError, match="focal length fl_x is 0 px, expected > 0"):
        load_camera_path(transforms_file(tmp_path, {"fl_x": 0}), base_camera())


def test_of_a_clip_of_ours_only_the_path_counts(tmp_path: Path) -> None:
    cameras = make_path("orbit", base_camera(), 5)
    clip = Clip(
        frames=torch.zeros(5, 3, HEIGHT, WIDTH), cameras=cameras, source="x", num_path_frames=3
    )
    write_nerfstudio(clip, tmp_path / "clip")
    path = load_camera_path(tmp_path / "clip", base_camera())
    assert torch.allclose(path.world_to_camera, cameras.world_to_camera[:3], atol=1e-12)


def recorded(places: Any, turns_deg: Any = 0.0) -> RecordedPath:
    """Cameras on a line to the right that turn about the vertical."""
    to_world = torch.eye(4, dtype=torch.float64).repeat(len(places), 1, 1)
    to_world[:, 0, 3] = torch.as_tensor(places, dtype=torch.float64)
    angles = np.broadcast_to(np.asarray(turns_deg, dtype=float), len(places))
    rotation = Rotation.from_rotvec(np.outer(angles, [0, 1, 0]), degrees=True)
    to_world[:, :3, :3] = torch.from_numpy(rotation.as_matrix())
    return RecordedPath.from_camera_to_world("a path", to_world)


def test_views_are_even_over_the_time_and_the_first_is_the_photograph() -> None:
    base = base_camera().to(torch.float32)
    path = recorded([0, 0.3, 0.6], [0, 20, 40]).placed_at(base, 9)
    assert path.num_views == 9 and path.world_to_camera.dtype == torch.float32
    assert torch.equal(path.world_to_camera[0], base.world_to_camera[0])
    assert torch.equal(path.intrinsics[0], base.intrinsics[0])
    local = path.relative_to(0)
    steps = local.positions[:, 0]
    assert steps.tolist() == pytest.approx(torch.linspace(0, 0.6, 9).tolist(), abs=1e-6)
    forward = local.camera_to_world[:, :3, 2]
    angles = torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2]))
    assert angles.tolist() == pytest.approx(torch.linspace(0, 40, 9).tolist(), abs=1e-4)


def test_jumps_are_found_before_and_after_resampling() -> None:
    places = [0.02 * i for i in range(20)]
    jumps = [place + (3.0 if i >= 12 else 0.0) for i, place in enumerate(places)]
    base = base_camera()
    recorded(places).placed_at(base, 9)
    with pytest.raises(
        UserError, match=r"a path: the path jumps by 3\.02 scene .* 11 and 12 of 20"
    ):
        recorded(jumps).placed_at(base)
    for num_views in (9, 49):
        with pytest.raises(UserError, match="jumps by"):
            recorded(jumps).placed_at(base, num_views)
    one_bad_frame = [place + (2.0 if i == 7 else 0.0) for i, place in enumerate(places)]
    with pytest.raises(UserError, match="views 6 and 7"):
        recorded(one_bad_frame).placed_at(base)
    turns = [0.0] * 10 + [90.0] * 10
    with pytest.raises(UserError, match="jumps by a turn of 90 degrees, between views 9 and 10"):
        recorded(places, turns).placed_at(base)
    with pytest.raises(UserError, match="from view 1 to 2 the camera turns by 180 degrees"):
        recorded([0, 1, 2], [0, 0, 180])


def test_a_fast_path_and_one_that_waits_are_no_jumps() -> None:
    base = base_camera()
    recorded([2.0 * i for i in range(9)]).placed_at(base)
    recorded([0.0] * 10 + [0.1 * i for i in range(5)]).placed_at(base, 33)
    # Few views of a long way: a jump only if nobody asks for the views between.
    recorded([0, 0, 0, 0, 3]).placed_at(base, 49)


def test_what_is_asked_for_has_to_make_sense(tmp_path: Path) -> None:
    file, base = transforms_file(tmp_path), base_camera()
    with pytest.raises(UserError, match="at least 2 views, 1 were asked for"):
        load_camera_path(file, base, 1)
    with pytest.raises(UserError, match="starts from 1 camera, found shape"):
        load_camera_path(file, load_camera_path(file, base))
    with pytest.raises(UserError, match="no camera path format 'fbx'.*known: stillscape"):
        load_camera_path(file, base, format="fbx")
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"other\.json: holds no camera path; expected the key"):
        load_camera_path(other, base)
    other.write_text("[1, 2")
    with pytest.raises(UserError, match=r"other\.json, line 1: not valid JSON"):
        load_camera_path(other, base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no COLMAP model here"):
        load_camera_path(tmp_path / "empty", base)


def test_the_list_names_every_path_with_its_amplitude_and_every_format() -> None:
    lines = describe_paths().splitlines()
    for name, path in PATHS.items():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert path.description in line and f"{path.amplitude:g} {path.unit}" in line
    for name in FORMATS:
        assert sum(name in line.split() for line in lines) >= 1
    assert max(map(len, lines)) <= 110
