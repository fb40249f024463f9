"""Clips from all that `reconstruct` takes: the right frames in the right order, held-out views apart."""

from __future__ import annotations

import json

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from data.importers.colmap import write_colmap
from data.importers.nerfstudio import write_nerfstudio
from data.importers.video import write_video
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from eval.clip_source import CutOptions, open_clip_source, path_order

OPTIONS = CutOptions(height=32, width=48, num_frames=9, num_held_out=4)


@pytest.fixture(scope="module")
def capture() -> Clip:
    """12 frames along a path of 32x48."""
    config = SceneConfig(height=32, width=48, num_frames=12, num_near=0, num_far=0, supersampling=1)
    return make_clip(11, config)


def circle(num_views: int) -> Cameras:
    angle = torch.linspace(0, 2, num_views)
    to_world = torch.eye(4).repeat(num_views, 1, 1)
    to_world[:, 0, 3], to_world[:, 2, 3] = angle.sin(), angle.cos()
    intrinsics = intrinsics_from_fov(50.0, 8, 8).expand(num_views, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, 8, 8)


def test_shuffled_views_are_put_back_into_their_path():
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    found = [shuffled[i] for i in path_order(circle(20).select(shuffled))]
    assert found in (list(range(20)), list(range(19, -1, -1)))


def test_views_in_order_stay_as_they_are():
    assert path_order(circle(20)) == list(range(20))


def test_a_capture_gives_neighbouring_frames_and_holds_others_out(capture, tmp_path):
    write_nerfstudio(capture, tmp_path / "capture")
    clip = open_clip_source(tmp_path / "capture", OPTIONS)
    assert clip.num_path_frames == 9 and clip.num_frames == 12
    assert (clip.frames - capture.frames).abs().max() < 1 / 254
    assert torch.equal(clip.cameras.world_to_camera[0], torch.eye(4))


def test_the_unit_of_length_is_about_the_scenes_depth_though_the_capture_tells_none(
    capture, tmp_path
):
    far_units = Clip(
        capture.frames, capture.cameras.rescaled(1 / 37.0), "capture", capture.num_path_frames
    )
    write_nerfstudio(far_units, tmp_path / "capture")
    clip = open_clip_source(tmp_path / "capture", OPTIONS)
    true = float(capture.depth[:9].median()) * 37.0
    assert 0.5 < clip.scale / true < 2.0


def test_a_colmap_model_is_read(capture, tmp_path):
    write_colmap(capture, tmp_path / "model")
    clip = open_clip_source(tmp_path / "model", OPTIONS)
    assert clip.num_path_frames == 9
    assert (clip.frames - capture.frames).abs().max() < 1 / 254


def test_a_video_takes_its_cameras_from_the_file_beside_it(capture, tmp_path):
    write_nerfstudio(capture, tmp_path / "capture")
    cameras = tmp_path / "capture" / "transforms.json"
    write_video(capture.frames, tmp_path / "video.mp4", 10.0)
    clip = open_clip_source(tmp_path / "video.mp4", OPTIONS, cameras=cameras)
    assert clip.num_path_frames == 9
    assert (clip.frames - capture.frames).abs().mean() < 0.03
    direct = open_clip_source(tmp_path / "capture", OPTIONS)
    turned = clip.cameras.world_to_camera[:, :3, :3] - direct.cameras.world_to_camera[:, :3, :3]
    assert turned.abs().max() < 1e-5

    with pytest.raises(UserError, match="--cameras"):
        open_clip_source(tmp_path / "video.mp4", OPTIONS)
    content = json.loads(cameras.read_text())
    content["frames"] = content["frames"][:-1]
    cameras.write_text(json.dumps(content))
    with pytest.raises(UserError, match="12 frames .* 11 entries"):
        open_clip_source(tmp_path / "video.mp4", OPTIONS, cameras=cameras)
    cameras.write_text("[]")
    with pytest.raises(UserError, match=r"transforms\.json"):
        open_clip_source(tmp_path / "video.mp4", OPTIONS, cameras=cameras)


def test_a_shard_folder_gives_the_clip_of_a_number(capture, clip, tmp_path):
    from data.shard_writing import write_shards

    write_shards([capture, clip], tmp_path / "shards")
    found = open_clip_source(tmp_path / "shards", CutOptions(number=1))
    assert found.source == clip.source and found.num_frames == clip.num_frames
    with pytest.raises(UserError, match="2 clips, numbered from 0; there is no clip 2"):
        open_clip_source(tmp_path / "shards", CutOptions(number=2))


def test_too_few_frames_and_folders_without_cameras_are_the_users_error(capture, tmp_path):
    write_nerfstudio(capture.select(range(5)), tmp_path / "short")
    with pytest.raises(UserError, match="5 usable frames"):
        open_clip_source(tmp_path / "short", OPTIONS)
    with pytest.raises(UserError, match="8k\\+1"):
        open_clip_source(tmp_path / "short", CutOptions(height=32, width=48, num_frames=4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no cameras"):
        open_clip_source(tmp_path / "empty", OPTIONS)
    with pytest.raises(UserError, match="no such file"):
        open_clip_source(tmp_path / "nowhere", OPTIONS)
