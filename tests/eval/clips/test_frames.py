"""What `score CLIP` may name: frames keep their size, cameras go with them, and mistakes are told."""

from __future__ import annotations

import json

import pytest
import torch

from configs.errors import UserError
from data.importers.images import write_image
from data.importers.nerfstudio import native_size, write_nerfstudio
from data.importers.path_json import save_camera_path
from data.importers.video import write_video
from data.shard_writing import write_shards
from eval.cameras.commanded import commanded_cameras
from eval.clips.frame_sources import kind_of
from eval.clips.frames import FrameFiles, FrameOptions


@pytest.fixture(scope="module")
def path_clip(clip):
    return clip.select(range(clip.num_path_frames))


@pytest.fixture
def capture(path_clip, tmp_path):
    write_nerfstudio(path_clip, tmp_path / "capture")
    return tmp_path / "capture"


@pytest.fixture
def cameras_file(path_clip, tmp_path):
    path = tmp_path / "path.json"
    save_camera_path(path_clip.cameras, path)
    return path


def test_a_capture_brings_its_cameras_and_keeps_its_size(capture, path_clip):
    assert native_size(capture) == (32, 48)
    for path in (capture, capture / "transforms.json"):
        files = FrameFiles(path, FrameOptions())
        found = files.load(0)
        assert files.name(0) == "capture" and len(files) == 1
        assert (found.frames - path_clip.frames).abs().max() <= 0.51 / 255
        assert torch.allclose(
            found.cameras.world_to_camera.float(), path_clip.cameras.world_to_camera, atol=1e-5
        )
        assert torch.allclose(found.cameras.intrinsics.float(), path_clip.cameras.intrinsics)


def test_extra_views_of_a_capture_are_left_out(clip, tmp_path):
    write_nerfstudio(clip, tmp_path / "capture")
    found = FrameFiles(tmp_path / "capture", FrameOptions()).load(0)
    assert len(found.frames) == found.cameras.num_views == clip.num_path_frames


def test_videos_and_folders_of_frames_take_cameras_from_a_file(path_clip, cameras_file, tmp_path):
    write_video(path_clip.frames, tmp_path / "video.mp4", 8)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(path_clip.frames):
        write_image(frame, tmp_path / "frames" / f"{number}.png")  # 10.png comes after 9.png
    for name in ("video.mp4", "frames"):
        found = FrameFiles(tmp_path / name, FrameOptions(cameras=cameras_file)).load(0)
        assert found.frames.shape == path_clip.frames.shape
        assert (found.frames - path_clip.frames).abs().mean() < 0.03
        assert torch.allclose(
            found.cameras.world_to_camera.float(), path_clip.cameras.world_to_camera, atol=1e-5
        )
        assert torch.allclose(
            found.cameras.intrinsics.float(), path_clip.cameras.intrinsics, atol=1e-3
        )


def test_shards_are_clips_by_number(path_clip, tmp_path):
    write_shards([path_clip, path_clip.mirrored()], tmp_path / "shards")
    files = FrameFiles(tmp_path / "shards", FrameOptions())
    assert [files.name(n) for n in range(len(files))] == ["clip_00000", "clip_00001"]
    assert files.load(1).cameras.num_views == path_clip.num_frames
    with_truth = FrameFiles(tmp_path / "shards", FrameOptions(reference=tmp_path / "shards"))
    assert torch.equal(with_truth.load(1).frames, with_truth.load(1).reference)

    videos = tmp_path / "videos"
    for name in ("a", "b"):
        (videos / name).mkdir(parents=True)
        for number, frame in enumerate(path_clip.frames):
            write_image(frame, videos / name / f"{number}.png")
    steered = FrameFiles(videos, FrameOptions(cameras=tmp_path / "shards"))
    mirrored = path_clip.mirrored().cameras.world_to_camera
    assert torch.allclose(steered.load(1).cameras.world_to_camera.float(), mirrored, atol=1e-6)
    (videos / "b" / "0.png").unlink()
    with pytest.raises(UserError, match=r"clip 1 has (\d+) cameras for (\d+) frames"):
        steered.load(1)


def test_a_folder_of_clips_is_matched_by_name(path_clip, cameras_file, tmp_path):
    videos, cameras, truth = (tmp_path / name for name in ("videos", "cameras", "truth"))
    for folder in (videos, cameras, truth):
        folder.mkdir()
    for name in ("b", "a10", "a9"):
        write_video(path_clip.frames, videos / f"{name}.mp4", 8)
    save_camera_path(path_clip.cameras, cameras / "a9.json")
    save_camera_path(path_clip.mirrored().cameras, cameras / "b.json")
    write_nerfstudio(path_clip, truth / "b")
    files = FrameFiles(videos, FrameOptions(cameras=cameras, reference=truth))
    assert [files.name(n) for n in range(3)] == ["a9", "a10", "b"]
    assert files.load(2).reference.shape == path_clip.frames.shape
    assert torch.allclose(
        files.load(2).cameras.world_to_camera.float(),
        path_clip.mirrored().cameras.world_to_camera,
        atol=1e-5,
    )
    with pytest.raises(UserError, match="a9: .*truth has no reference of that name"):
        files.load(0)
    with pytest.raises(UserError, match=r"a10: .*cameras has no cameras of that name"):
        FrameFiles(videos, FrameOptions(cameras=cameras)).load(1)
    shared = FrameFiles(videos, FrameOptions(cameras=cameras_file))
    assert shared.load(1).cameras is not None
    with pytest.raises(UserError, match="single file; with several clips"):
        FrameFiles(videos, FrameOptions(reference=videos / "b.mp4")).load(0)


def test_the_references_cameras_stand_in_and_it_is_said(path_clip, capture, tmp_path):
    write_video(path_clip.frames, tmp_path / "video.mp4", 8)
    found = FrameFiles(tmp_path / "video.mp4", FrameOptions(reference=capture)).load(0)
    assert found.cameras is not None and found.notes == ("the cameras are those of the reference",)
    alone = FrameFiles(tmp_path / "video.mp4", FrameOptions()).load(0)
    assert alone.cameras is None and alone.reference is None


def test_size_is_changed_only_when_asked_and_then_everywhere(capture, tmp_path, path_clip):
    write_image(path_clip.frames[0], tmp_path / "input.png")
    options = FrameOptions(reference=capture, input=tmp_path / "input.png", size=(16, 16))
    found = FrameFiles(capture, options).load(0)
    assert found.frames.shape[-2:] == found.reference.shape[-2:] == (16, 16)
    assert found.input.shape[-2:] == (16, 16)
    assert (found.cameras.height, found.cameras.width) == (16, 16)
    # The middle 32 of 48 columns at half the size.
    assert found.cameras.intrinsics[0, 0, 0] == pytest.approx(
        float(path_clip.cameras.intrinsics[0, 0, 0]) / 2, rel=1e-5
    )
    assert found.cameras.intrinsics[0, 0, 2] == pytest.approx(8)


def test_the_fingerprint_is_of_the_content(capture, cameras_file, path_clip):
    before = FrameFiles(capture, FrameOptions()).fingerprint
    assert FrameFiles(capture, FrameOptions()).fingerprint == before
    assert FrameFiles(capture, FrameOptions(cameras=cameras_file)).fingerprint != before
    write_image(path_clip.frames[1], capture / "images" / "00000.png")
    assert FrameFiles(capture, FrameOptions()).fingerprint != before


def test_what_holds_no_frames_is_told(tmp_path, cameras_file):
    (tmp_path / "empty").mkdir()
    assert kind_of(tmp_path / "empty", strict=False) == ""
    for path, words in (
        (tmp_path / "none", "no such file or folder; expected a video"),
        (tmp_path / "empty", "there are no frames in it; expected a video"),
    ):
        with pytest.raises(UserError, match=words):
            FrameFiles(path, FrameOptions())
    with pytest.raises(UserError, match="--cameras .*no such file"):
        FrameFiles(cameras_file, FrameOptions(cameras=tmp_path / "none.json"))


def test_a_broken_video_and_frames_of_two_sizes_are_told(tmp_path, path_clip):
    (tmp_path / "broken.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(UserError, match="can't be decoded as a video"):
        FrameFiles(tmp_path / "broken.mp4", FrameOptions()).load(0)
    (tmp_path / "frames").mkdir()
    write_image(path_clip.frames[0], tmp_path / "frames" / "0.png")
    write_image(path_clip.frames[0][:, :20], tmp_path / "frames" / "1.png")
    with pytest.raises(UserError, match="frame 1 is 20x48, frame 0 32x48"):
        FrameFiles(tmp_path / "frames", FrameOptions()).load(0)


def test_another_number_of_cameras_is_refused(path_clip, cameras_file):
    with pytest.raises(UserError, match="has 9 cameras for 8 frames"):
        commanded_cameras(cameras_file, 8, (32, 48))


def test_files_without_focal_lengths_need_one(tmp_path):
    file = tmp_path / "path.txt"
    file.write_text("0 10\n0 0\n0 -0.2\n")
    with pytest.raises(UserError, match="no focal length; give .* --fov"):
        commanded_cameras(file, 9, (32, 48))
    cameras, _ = commanded_cameras(file, 9, (32, 48), 90.0)
    assert cameras.num_views == 9 and cameras.intrinsics[0, 1, 1] == pytest.approx(16)


@pytest.mark.parametrize("size", [(48, 48), (32, 96), (32, 48)])
def test_frames_of_another_shape_are_the_centre_of_the_picture(
    size, cameras_file, path_clip, tmp_path
):
    """Against the repository's own resizing and cropping of the picture."""
    from data.importers.images import resize_and_crop

    cameras, notes = commanded_cameras(cameras_file, 9, size)
    _, matrix = resize_and_crop(path_clip.frames[0], *size)
    expected = matrix @ path_clip.cameras.intrinsics[0].double()
    assert torch.allclose(cameras.intrinsics[0], expected, atol=1e-3)
    assert bool(notes) == (size != (32, 48))


def test_a_transposed_image_is_read_as_its_cameras_say(capture):
    content = json.loads((capture / "transforms.json").read_text())
    content["w"], content["h"] = content["h"], content["w"]
    (capture / "transforms.json").write_text(json.dumps(content))
    assert native_size(capture) == (48, 32)
