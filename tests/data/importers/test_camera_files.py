"""RealEstate10K's and ACID's files: cameras and frames of a scene whose both are known, in each layout on disk."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.importers.camera_files import CameraFileScenes, id_in_address, read_camera_file
from data.importers.posed_scene import FrameFit, SceneRef
from data.importers.video import write_video
from data.left_out import LeftOut, Reason

FIT = FrameFit(48, 72)
KEY = SceneRef("0a1b2c3d4e5f6789")


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def check_cameras(scene, walk) -> None:
    torch.testing.assert_close(
        scene.world_to_camera, walk.cameras.world_to_camera, rtol=0, atol=1e-7
    )


@pytest.fixture
def walk(make_walk):
    return make_walk(0, 17)


@pytest.fixture
def scenes(tmp_path: Path, walk, write_camera_file) -> CameraFileScenes:
    """One camera file, and no frames."""
    (tmp_path / "media").mkdir()
    write_camera_file(walk, tmp_path / "cameras" / f"{KEY.name}.txt")
    return CameraFileScenes(tmp_path / "cameras", tmp_path / "media")


@pytest.mark.parametrize("folder", [KEY.name, "abc-DEF_123"])
def test_frames_named_by_timestamp(tmp_path, walk, write_camera_file, write_frames, folder):
    times = write_camera_file(walk, tmp_path / f"{KEY.name}.txt")
    write_frames(walk, tmp_path / folder, times)
    (tmp_path / folder / "readme.txt").write_text("not a frame")
    scenes = CameraFileScenes(tmp_path, tmp_path)
    assert scenes.list_scenes() == [KEY]
    scene = scenes.open(KEY, FIT)
    check_cameras(scene, walk)
    views = [3, 5, 4, 16]
    frames, intrinsics = scene.read(views, FIT)
    torch.testing.assert_close(frames, walk.frames[views], rtol=0, atol=1e-6)
    torch.testing.assert_close(intrinsics, walk.cameras.intrinsics[views], rtol=1e-7, atol=1e-6)


def test_frames_of_a_whole_video_are_found_by_time(scenes, walk):
    """The scene begins 35 frames into the video, as its timestamps say: 1.167 s at 30000/1001 frames a second."""
    start = 35
    before = torch.rand(start, 3, 48, 72, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([before, walk.frames, before[:5]])
    write_video(frames, scenes.media / "abc-DEF_123.mp4", fps=30_000 / 1001)
    path = scenes.cameras / f"{KEY.name}.txt"
    lines = path.read_text().splitlines()
    for i in range(len(walk.frames)):
        time = round((start + i) * 1_001_000 / 30 / 1000) * 1000
        lines[i + 1] = " ".join([str(time), *lines[i + 1].split()[1:]])
    path.write_text("\n".join(lines))
    scene = scenes.open(KEY, FIT)
    views = [0, 4, 8, 2]
    found, _ = scene.read(views, FIT)
    for view, frame in zip(views, found, strict=True):
        nearest = max(range(len(walk.frames)), key=lambda i: psnr(frame, walk.frames[i]))
        assert nearest == view and psnr(frame, walk.frames[view]) > 30


def test_a_video_cut_to_the_scene_is_taken_frame_by_frame(scenes, walk):
    write_video(walk.frames, scenes.media / f"{KEY.name}.mp4", fps=10)
    found, _ = scenes.open(KEY, FIT).read([16, 1], FIT)
    assert psnr(found[0], walk.frames[16]) > 30 and psnr(found[1], walk.frames[1]) > 30
    write_video(walk.frames[:-1], scenes.media / f"{KEY.name}.mp4", fps=10)
    with pytest.raises(LeftOut, match="holds 16 frames for 17 cameras"):
        scenes.open(KEY, FIT).read([0], FIT)


def test_resizing_and_cropping_keep_rays(scenes, walk, write_frames, tmp_path):
    """The frame's cut at half the size shows the same directions: as `Cameras` crops and resizes."""
    times = read_camera_file(scenes.cameras / f"{KEY.name}.txt")[1].times.long().tolist()
    write_frames(walk, scenes.media / KEY.name, times)
    _, intrinsics = scenes.open(KEY, FIT).read([0], FrameFit(24, 24))
    expected = walk.cameras.select([0]).crop(0, 12, 48, 48).resize(24, 24)
    torch.testing.assert_close(intrinsics, expected.intrinsics, rtol=1e-6, atol=1e-6)


def test_frames_that_are_too_small_are_left_out_unless_told(scenes, walk, write_frames):
    times = read_camera_file(scenes.cameras / f"{KEY.name}.txt")[1].times.long().tolist()
    write_frames(walk, scenes.media / KEY.name, times)
    scene = scenes.open(KEY, FIT)
    with pytest.raises(LeftOut, match="frames are 48x72, smaller than 96x96") as told:
        scene.read([0], FrameFit(96, 96))
    assert told.value.reason == Reason.SMALL
    assert scene.read([0], FrameFit(96, 96, enlarge=True))[0].shape == (1, 3, 96, 96)


def edit_row(scenes: CameraFileScenes, row: int, column: int, value: str) -> None:
    path = scenes.cameras / f"{KEY.name}.txt"
    lines = path.read_text().splitlines()
    words = lines[row].split()
    words[column] = value
    lines[row] = " ".join(words)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, "0", r"line 6: focal length is \(0, "),
        (1, "620.5", "seems to be in pixels"),
        (9, "nan", "nan is not a finite number"),
        (9, "x", "'x' is not a number"),
        (7, "0.1", "not orthonormal"),
        (0, "1", "times have to increase"),
    ],
)
def test_broken_camera_files_are_left_out(scenes, column, value, message):
    edit_row(scenes, 5, column, value)
    with pytest.raises(LeftOut, match=message) as told:
        scenes.open(KEY, FIT)
    assert told.value.reason == Reason.CAMERAS


@pytest.mark.parametrize("text", ["", "https://www.youtube.com/watch?v=x\n", "\x00\xff"])
def test_empty_camera_files_are_left_out(scenes, text):
    (scenes.cameras / f"{KEY.name}.txt").write_text(text)
    with pytest.raises(LeftOut) as told:
        scenes.open(KEY, FIT)
    assert told.value.reason == Reason.CAMERAS


def test_missing_frames_and_videos_are_left_out(scenes, walk, write_frames):
    with pytest.raises(LeftOut, match="no folder of frames and no video") as told:
        scenes.open(KEY, FIT)
    assert told.value.reason == Reason.NO_MEDIA
    times = read_camera_file(scenes.cameras / f"{KEY.name}.txt")[1].times.long().tolist()
    write_frames(walk, scenes.media / KEY.name, times)
    (scenes.media / KEY.name / f"{times[7]}.png").unlink()
    with pytest.raises(LeftOut, match=f"1 of 17 frames are missing; the first is {times[7]}"):
        scenes.open(KEY, FIT)
    shutil.rmtree(scenes.media / KEY.name)
    (scenes.media / KEY.name).mkdir()
    with pytest.raises(LeftOut, match="17 of 17 frames are missing") as told:
        scenes.open(KEY, FIT)
    assert told.value.reason == Reason.MISSING


def test_folders_without_scenes_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        CameraFileScenes(tmp_path / "nowhere", tmp_path).list_scenes()
    with pytest.raises(UserError, match="has no camera files"):
        CameraFileScenes(tmp_path, tmp_path).list_scenes()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.txt").write_text("")
    with pytest.raises(UserError, match="it has train: name one of them"):
        CameraFileScenes(tmp_path, tmp_path).list_scenes()


@pytest.mark.parametrize(
    ("address", "video_id"),
    [
        ("https://www.youtube.com/watch?v=-abc_1", "-abc_1"),
        ("https://www.youtube.com/watch?list=1&v=xyz", "xyz"),
        ("https://youtu.be/xyz", "xyz"),
        ("", ""),
    ],
)
def test_the_id_in_an_address(address, video_id):
    assert id_in_address(address) == video_id


def test_a_walk_is_what_it_says(make_walk):
    """The tests' own truth: the rows are rigid, and the unit of length is the set's."""
    walk = make_walk(1, 9)
    rotation = walk.rows[:, 6:].reshape(-1, 3, 4)[:, :, :3]
    identity = torch.eye(3, dtype=torch.float64).expand(9, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-6, rtol=0)
    assert math.isclose(float(walk.depth[walk.depth > 0].median()), 2.7, rel_tol=1e-3)
