"""Structure from motion against the cameras that rendered or took the photos."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from scipy.spatial.transform import Rotation
from skimage import data

from configs.errors import UserError
from data.cameras import Cameras
from data.importers.nerfstudio import read_nerfstudio
from data.importers.photos import RegistrationReport, reconstruct_photos, reconstruct_video
from data.importers.video import write_video

Room = tuple[np.ndarray, np.ndarray]
"""Photos and depth of the fixture `room`."""

CAPTURES = Path(__file__).resolve().parents[3].parent / "shared/scenes"


def camera_errors(found: Cameras, truth: Cameras) -> tuple[float, float]:
    """Largest position error, as a share of the cameras' span, after the similarity that fits positions best
    (Umeyama), and the largest error [deg] of rotations relative to the first camera."""
    a, b = found.positions.numpy(), truth.positions.numpy()
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, sizes, v = np.linalg.svd(b0.T @ a0)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ v))])
    rotation = u @ sign @ v
    scale = np.trace(np.diag(sizes) @ sign) / (a0**2).sum()
    position = np.linalg.norm(scale * a0 @ rotation.T - b0, axis=1).max()
    relative = [c.relative_to(0).world_to_camera[:, :3, :3].numpy() for c in (found, truth)]
    angles = Rotation.from_matrix(relative[0] @ relative[1].swapaxes(1, 2)).magnitude()
    return position / np.ptp(b, axis=0).max(), math.degrees(angles.max())


def save(photos: np.ndarray, folder: Path) -> None:
    folder.mkdir()
    for i, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / f"photo {i + 5}.png")


def test_cameras_and_depth_of_a_rendered_scene(
    tmp_path: Path, room: Room, room_cameras: Cameras
) -> None:
    save(room[0], tmp_path / "holiday")
    stages: dict[str, tuple[int, int]] = {}
    clip, report = reconstruct_photos(
        tmp_path / "holiday",
        240,
        320,
        progress=lambda stage, done, total: stages.update({stage: (done, total)}),
    )
    assert report.registered == tuple(f"photo {i}.png" for i in range(5, 13))
    assert report.unregistered == () and report.reprojection_error_px < 1
    assert "8 of 8 photos placed" in report.describe()
    assert clip.source == "holiday" and clip.num_path_frames == 8

    position, angle = camera_errors(clip.cameras, room_cameras)
    assert position < 0.02 and angle < 0.5
    # Every depth is off by one and the same factor.
    assert clip.depth is not None
    known = clip.depth > 0
    ratio = torch.from_numpy(room[1])[known] / clip.depth[known]
    assert known.sum() > 500
    assert (ratio / ratio.median() - 1).abs().quantile(0.9) < 0.03

    photos = torch.from_numpy(room[0]).movedim(-1, 1) / 255
    assert (clip.frames - photos).abs().mean() < 0.02, "in the order of their names"
    assert list(stages) == [
        "read photos",
        "find features",
        "match pairs",
        "place images",
        "read images",
    ]
    assert all(done == total for done, total in stages.values())


def test_a_video_gives_the_same_cameras_every_time(
    tmp_path: Path, room: Room, room_cameras: Cameras
) -> None:
    frames = torch.from_numpy(room[0]).movedim(-1, 1) / 255
    write_video(frames.repeat_interleave(2, dim=0), tmp_path / "a.mp4", fps=5)
    clips = [
        reconstruct_video(tmp_path / "a.mp4", 48, 64, max_frames=6, stride=2) for _ in range(2)
    ]
    assert torch.equal(clips[0][0].cameras.world_to_camera, clips[1][0].cameras.world_to_camera)
    assert clips[0][1] == clips[1][1]
    assert clips[0][1].registered == tuple(f"frame {2 * i}" for i in range(6))
    position, angle = camera_errors(clips[0][0].cameras, room_cameras.select(slice(0, 6)))
    assert position < 0.03 and angle < 1.0


def test_photos_from_a_phone_with_a_stranger_among_them(
    tmp_path: Path, room: Room, room_cameras: Cameras
) -> None:
    """One is turned by EXIF, one grey, one tells its focal length: these must be placed, the stranger not."""
    save(room[0], tmp_path / "photos")
    Image.fromarray(data.rocket()).save(tmp_path / "photos/stranger.png")
    paths = [tmp_path / f"photos/photo {i}.png" for i in range(5, 13)]
    turned = Image.open(paths[1]).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(paths[1], exif=exif)
    Image.open(paths[2]).convert("L").save(paths[2])
    photo = Image.open(paths[3])
    exif = photo.getexif()
    focal = round(300 / 320 * 36)
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: focal}
    photo.save(paths[3], exif=exif)
    clip, report = reconstruct_photos(tmp_path / "photos", 60, 80)
    assert clip.num_frames == 8 and report.unregistered == ("stranger.png",)
    assert report.describe().startswith("8 of 9 photos placed")
    assert report.describe().endswith("Left out: stranger.png")
    position, angle = camera_errors(clip.cameras, room_cameras)
    assert position < 0.03 and angle < 1.0
    focal_lengths = clip.cameras.intrinsics[:, 0, 0]
    assert len(set(focal_lengths.tolist())) == 2, "the one with another lens has its own camera"
    assert bool((focal_lengths - 75).abs().max() < 5)


def test_photos_that_show_nothing_to_hold_on_to(tmp_path: Path) -> None:
    save(np.full((4, 60, 80, 3), 128, np.uint8), tmp_path / "fog")
    with pytest.raises(
        UserError, match=r"fog: only 0 of 4 photos could be placed .* overlapping the next"
    ):
        reconstruct_photos(tmp_path / "fog", 48, 64)


def test_too_few_photos_and_damaged_ones(tmp_path: Path, room: Room) -> None:
    save(room[0][:2], tmp_path / "few")
    with pytest.raises(UserError, match=r"few has 2 photos .* expected at least 3"):
        reconstruct_photos(tmp_path / "few", 48, 64)
    (tmp_path / "few/torn.png").write_bytes((tmp_path / "few/photo 5.png").read_bytes()[:900])
    with pytest.raises(UserError, match=r"torn.png: the image can't be read or is damaged"):
        reconstruct_photos(tmp_path / "few", 48, 64)
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        reconstruct_photos(tmp_path / "nowhere", 48, 64)


def test_the_report_is_honest_about_pieces() -> None:
    report = RegistrationReport(("a", "b", "c"), ("d",), 2, 500, 0.618)
    assert report.describe() == (
        "3 of 4 photos placed, 500 points, mean reprojection error 0.62 px; the photos fell into 2"
        " separate pieces, the largest is kept. Left out: d"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not CAPTURES.is_dir(), reason=f"no real captures at {CAPTURES}")
def test_a_real_capture_agrees_with_its_known_cameras() -> None:
    folder = CAPTURES / "brighton_beach"
    clip, report = reconstruct_photos(folder / "images", 135, 240)
    assert len(report.registered) == 18 and report.reprojection_error_px < 0.5
    position, angle = camera_errors(clip.cameras, read_nerfstudio(folder, 135, 240).cameras)
    assert position < 0.02 and angle < 0.5
