"""transforms.json in and out: round trips, conventions by hand, and everything that can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage import data

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.nerfstudio import read_nerfstudio, write_nerfstudio

HEIGHT, WIDTH = 24, 36


def some_clip(num_frames: int = 4) -> Clip:
    rng = np.random.default_rng(0)
    camera_to_world = np.tile(np.eye(4), (num_frames, 1, 1))
    camera_to_world[:, :3, :3] = Rotation.random(num_frames, rng=rng).as_matrix()
    camera_to_world[:, :3, 3] = rng.uniform(-30, 30, (num_frames, 3))
    intrinsics = np.tile(np.diag([1.0, 1.0, 1.0]), (num_frames, 1, 1))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = rng.uniform(20, 60, (2, num_frames))
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = rng.uniform(5, 20, (2, num_frames))
    cameras = Cameras.from_camera_to_world(
        torch.from_numpy(camera_to_world), torch.from_numpy(intrinsics), HEIGHT, WIDTH
    )
    levels = torch.from_numpy(rng.integers(0, 256, (num_frames, 3, HEIGHT, WIDTH)))
    return Clip(
        frames=levels.float() / 255,
        cameras=cameras,
        source="made/7",
        num_path_frames=num_frames - 1,
        caption="noise",
        scale=2.5,
    )


def test_round_trip_to_1e_6(tmp_path: Path) -> None:
    clip = some_clip()
    write_nerfstudio(clip, tmp_path / "out")
    again = read_nerfstudio(tmp_path / "out", HEIGHT, WIDTH)
    for name in ("world_to_camera", "intrinsics"):
        torch.testing.assert_close(
            getattr(again.cameras, name), getattr(clip.cameras, name), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(again.frames, clip.frames, atol=1e-6, rtol=0)
    assert (again.source, again.caption) == ("made/7", "noise")
    assert (again.num_path_frames, again.scale) == (3, 2.5)


Capture = Callable[..., Path]


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    """Writes a folder of one photograph of 60 x 90 a frame; `changes` go to the file, `frame` to frame 1."""

    def make(
        changes: dict[str, Any] | None = None,
        frame: dict[str, Any] | None = None,
        num_frames: int = 3,
    ) -> Path:
        folder = tmp_path / "capture"
        folder.mkdir()
        photo = Image.fromarray(data.astronaut()[:300:5, :450:5])
        frames = []
        for i in range(num_frames):
            photo.save(folder / f"{i}.png")
            transform = np.eye(4)
            transform[0, 3] = i
            frames.append({"file_path": f"{i}.png", "transform_matrix": transform.tolist()})
        frames[1].update(frame or {})
        content = {"fl_x": 80.0, "fl_y": 80.0, "w": 90, "h": 60, "frames": frames}
        content.update(changes or {})
        (folder / "transforms.json").write_text(json.dumps(content))
        return folder

    return make


def test_opengl_axes_become_opencvs_by_hand(capture: Capture) -> None:
    """OpenGL's identity camera looks along -z with y up. What lies at (0, 1, -4) is straight ahead and
    up; a second camera, one unit to the right, sees it further left."""
    clip = read_nerfstudio(capture(), 60, 90)
    pixels, depths = clip.cameras.project(torch.tensor([[0.0, 1, -4]], dtype=torch.float64))
    assert depths[:2, 0].tolist() == [4, 4]
    assert pixels[0, 0].tolist() == [45, 30 - 80 / 4]
    assert pixels[1, 0].tolist() == [45 - 80 / 4, 30 - 80 / 4]


def test_file_or_folder_and_frames_in_the_files_order(capture: Capture) -> None:
    folder = capture()
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"].reverse()
    (folder / "transforms.json").write_text(json.dumps(content))
    for path in (folder, folder / "transforms.json"):
        clip = read_nerfstudio(path, 60, 90)
        assert clip.cameras.positions[:, 0].tolist() == [2, 1, 0]
        assert clip.source == "capture" and clip.num_path_frames == 3


def test_resizing_and_cropping_change_frames_and_intrinsics_together(capture: Capture) -> None:
    """60 x 90 to 20 x 20: scaled by 1/3 to 20 x 30, then 5 columns are cut on each side."""
    folder = capture()
    clip = read_nerfstudio(folder, 20, 20)
    expected = [[80 / 3, 0, 15 - 5], [0, 80 / 3, 10], [0, 0, 1]]
    np.testing.assert_allclose(clip.cameras.intrinsics[0], expected, atol=1e-9)
    whole = read_nerfstudio(folder, 20, 30)
    torch.testing.assert_close(clip.frames, whole.frames[:, :, :, 5:-5], atol=1e-5, rtol=0)


def test_frames_of_other_size_and_focal_length(capture: Capture) -> None:
    """Frame 1 is twice as large with twice the focal length: the same picture and the same camera."""
    folder = capture(frame={"w": 180, "h": 120, "fl_x": 160.0, "fl_y": 160.0})
    Image.open(folder / "1.png").resize((180, 120), Image.Resampling.NEAREST).save(folder / "1.png")
    clip = read_nerfstudio(folder, 30, 45)
    torch.testing.assert_close(clip.cameras.intrinsics[1], clip.cameras.intrinsics[0])
    assert (clip.frames[1] - clip.frames[0]).abs().mean() < 0.02


def test_images_smaller_than_the_stated_size(capture: Capture) -> None:
    """As in nerfstudio's `images_2` folders: intrinsics follow the image that is there."""
    folder = capture({"w": 180, "h": 120, "fl_x": 160.0, "fl_y": 160.0})
    clip = read_nerfstudio(folder, 60, 90)
    np.testing.assert_allclose(
        clip.cameras.intrinsics[0], [[80, 0, 45], [0, 80, 30], [0, 0, 1]], atol=1e-9
    )


def test_focal_length_from_field_of_view_and_names_without_extension(capture: Capture) -> None:
    """NeRF-synthetic: only camera_angle_x, "./0" for 0.png, and transparent images on white."""
    folder = capture()
    content = json.loads((folder / "transforms.json").read_text())
    frames = [
        {"file_path": f"./{i}", "rotation": 0.01, "transform_matrix": frame["transform_matrix"]}
        for i, frame in enumerate(content["frames"])
    ]
    content = {"camera_angle_x": 2 * math.atan(0.5), "frames": frames}
    (folder / "transforms.json").unlink()
    (folder / "transforms_train.json").write_text(json.dumps(content))
    Image.new("RGBA", (90, 60), (255, 0, 0, 0)).save(folder / "0.png")
    clip = read_nerfstudio(folder, 60, 90)
    np.testing.assert_allclose(
        clip.cameras.intrinsics[0], [[90, 0, 45], [0, 90, 30], [0, 0, 1]], atol=1e-9
    )
    assert bool((clip.frames[0] == 1).all())
    black = read_nerfstudio(folder, 60, 90, background=(0.0, 0.0, 0.0))
    assert bool((black.frames[0] == 0).all())
    assert torch.equal(black.frames[1], clip.frames[1])


def test_masks_are_used_when_asked_for(capture: Capture) -> None:
    folder = capture(frame={"mask_path": "mask.png"})
    mask = np.zeros((60, 90), np.uint8)
    mask[:, :45] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    plain = read_nerfstudio(folder, 60, 90)
    masked = read_nerfstudio(folder, 60, 90, apply_masks=True)
    assert torch.equal(masked.frames[0], plain.frames[0])
    assert torch.equal(masked.frames[1, :, :, :45], plain.frames[1, :, :, :45])
    assert bool((masked.frames[1, :, :, 45:] == 1).all())
    Image.fromarray(mask[:30]).save(folder / "mask.png")
    with pytest.raises(UserError, match=r"mask.png: the mask is 30x90 but its image is 60x90"):
        read_nerfstudio(folder, 60, 90, apply_masks=True)


@pytest.mark.parametrize("stated_as", ["stored", "upright"])
def test_exif_orientation_follows_the_stated_size(capture: Capture, stated_as: str) -> None:
    """A photo stored as 60 x 90 that is shown as 90 x 60: the camera's size says which one is meant."""
    size = {"stored": {"w": 90, "h": 60}, "upright": {"w": 60, "h": 90}}[stated_as]
    folder = capture(frame={"file_path": "turned.jpg", **size})
    photo = Image.open(folder / "1.png")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=exif, quality=98, subsampling=0)
    clip = read_nerfstudio(folder, 60, 60)
    expected = photo if stated_as == "stored" else photo.transpose(Image.Transpose.ROTATE_270)
    middle = expected.crop((15, 0, 75, 60) if stated_as == "stored" else (0, 15, 60, 75))
    difference = clip.frames[1].movedim(0, -1).numpy() - np.asarray(middle) / 255
    assert np.abs(difference).mean() < 0.02


def test_at_most_so_many_frames_evenly_spread(capture: Capture) -> None:
    folder = capture(num_frames=9)
    seen: list[tuple[str, int, int]] = []
    clip = read_nerfstudio(
        folder, 12, 18, max_frames=3, progress=lambda *report: seen.append(report)
    )
    assert clip.cameras.positions[:, 0].tolist() == [0, 4, 8]
    assert seen == [("read images", i, 3) for i in (1, 2, 3)]
    assert read_nerfstudio(folder, 12, 18, max_frames=20).num_frames == 9


def test_radial_distortion_is_undone(capture: Capture) -> None:
    """A straight line of the scene that the lens bends is straight again."""
    folder = capture(frame={"k1": -0.3})
    column, row = np.meshgrid((np.arange(90) + 0.5 - 45) / 80, (np.arange(60) + 0.5 - 30) / 80)
    # Newton's iteration for the pinhole height of each pixel that the lens saw, along its radius.
    seen = np.hypot(column, row)
    radius = seen.copy()
    for _ in range(20):
        radius -= (radius * (1 - 0.3 * radius**2) - seen) / (1 - 0.9 * radius**2)
    height = row * radius / seen
    bent = 0.5 + 0.4 * np.tanh((height - 0.25) * 30)
    Image.fromarray((np.repeat(bent[..., None], 3, 2) * 255).astype(np.uint8)).save(
        folder / "1.png"
    )
    assert bent.std(axis=1).max() > 0.1, "the line is bent before"
    for height, width, tolerance in ((60, 90, 0.01), (20, 30, 0.02), (20, 20, 0.02)):
        clip = read_nerfstudio(folder, height, width)
        matrix = clip.cameras.intrinsics[1]
        rows = (torch.arange(height) + 0.5 - matrix[1, 2]) / matrix[1, 1]
        expected = 0.5 + 0.4 * torch.tanh((rows - 0.25) * 30)
        assert (clip.frames[1, 0] - expected[:, None]).abs().mean() < tolerance
        assert clip.frames[1, 0].std(dim=1).max() < 0.1


def broken_transform(**entries: float) -> list[list[float]]:
    transform = np.eye(4)
    for place, value in entries.items():
        transform[int(place[1]), int(place[2])] = value
    return transform.tolist()


@pytest.mark.parametrize(
    ("changes", "frame", "message"),
    [
        ({}, {"transform_matrix": broken_transform(r03=math.nan)}, "camera 1 has NaN"),
        ({}, {"transform_matrix": broken_transform(r00=1.1)}, "camera 1 .* not orthonormal"),
        ({}, {"transform_matrix": broken_transform(r00=-1)}, "camera 1 has a mirrored rotation"),
        ({}, {"transform_matrix": broken_transform(r30=1)}, "camera 1 .* last row"),
        ({}, {"transform_matrix": [[1, 2], [3, 4]]}, r"frame 1: .* shape \[2, 2\], expected 4x4"),
        ({}, {"transform_matrix": [[1, 2], [3]]}, "frame 1: .* not a 4x4 list of numbers"),
        ({}, {"transform_matrix": "eye"}, "frame 1: .* not a 4x4 list of numbers"),
        ({}, {"transform_matrix": None}, "frame 1 has no 'transform_matrix'"),
        ({}, {"file_path": None}, "frame 1 has no 'file_path'"),
        ({}, {"file_path": "gone.png"}, "1 of 3 images are missing; the first is .*gone.png"),
        ({}, {"file_path": "gone"}, "1 of 3 images are missing; the first is .*gone"),
        ({}, {"fl_x": 0}, "frame 1: focal length fl_x is 0 px, expected > 0"),
        ({}, {"fl_x": "long"}, "frame 1: 'fl_x' is 'long', expected a number"),
        ({}, {"cx": math.nan}, "frame 1: 'cx' is nan, expected a number"),
        ({}, {"w": 0}, "frame 1: image size h=60, w=0"),
        ({}, {"w": 45}, "1.png: the image is 60x90 but its camera is stated for 60x45"),
        ({}, {"camera_model": "OPENCV_FISHEYE"}, "'OPENCV_FISHEYE' is not supported; .*undistort"),
        ({}, {"is_fisheye": True}, "frame 1: is_fisheye is not supported"),
        ({}, {"k4": 0.1}, "frame 1: distortion k4 is not supported"),
        ({}, {"k1": -40.0}, r"1.png: Distortion\(k1=-40.0.* folds the picture|1.png: .*too strong"),
        ({}, {"mask_path": 3}, "frame 1: 'mask_path' is 3, expected a path"),
        ({"fl_x": None, "fl_y": None}, {}, "frame 0 has no focal length: expected 'fl_x'"),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": 4}, {}, "camera_angle_x is 4 rad"),
        ({"frames": []}, {}, "expected a non-empty list under the key 'frames'"),
        ({"frames": {"a": 1}}, {}, "expected a non-empty list under the key 'frames'"),
        ({"frames": [3]}, {}, "frame 0 is not a JSON object"),
        ({"stillscape": {"num_path_frames": 9}}, {}, "says 9 path frames of 3"),
        ({"stillscape": {"caption": 9}}, {}, "'stillscape.caption' is 9"),
    ],
)
def test_what_is_wrong_is_named(
    capture: Capture, changes: dict[str, Any], frame: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_nerfstudio(capture(changes, frame), 60, 90)


def test_a_damaged_image_is_named(capture: Capture) -> None:
    folder = capture()
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"2.png: the image can't be read or is damaged"):
        read_nerfstudio(folder, 60, 90)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"frames": [', r"transforms.json, line 1: not valid JSON"),
        (b"[1, 2]", r"expected a JSON object with a list 'frames'"),
        (b"\xff\xfe\x00", r"transforms.json is not a JSON text file"),
        (b"[" * 100_000, r"transforms.json is not a JSON text file"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_nerfstudio(tmp_path, 60, 90)


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").touch()
    with pytest.raises(UserError, match=r"no transforms.json .*it has cameras.json: name one"):
        read_nerfstudio(tmp_path, 60, 90)
    with pytest.raises(UserError, match="no such file or folder"):
        read_nerfstudio(tmp_path / "nowhere", 60, 90)


def test_nothing_is_overwritten_or_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = some_clip()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").touch()
    with pytest.raises(UserError, match="full already exists and is not empty"):
        write_nerfstudio(clip, tmp_path / "full")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.importers.nerfstudio.write_image", full_disk)
    with pytest.raises(UserError, match="the disk is full"):
        write_nerfstudio(clip, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
