"""Procedural clips: repeatable, normalised, and with cameras and depth that explain the pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.loader import load_config
from data.cameras import pixel_centres
from data.clips import Clip
from data.procedural.clips import draw_posed_scene, extra_views, make_clip
from data.procedural.config import SceneConfig
from data.procedural.scene import SKY_DISTANCE, clearance
from data.procedural.viewpoints import NEAREST_SOLID, NEAREST_SURFACE

CONFIG = SceneConfig(height=32, width=48, num_frames=9, num_near=2, num_far=2)
SEEDS = range(900, 906)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(seed, CONFIG) for seed in SEEDS]


def assert_same(one: Clip, other: Clip) -> None:
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(one.depth, other.depth)
    assert torch.equal(one.cameras.world_to_camera, other.cameras.world_to_camera)
    assert torch.equal(one.cameras.intrinsics, other.cameras.intrinsics)
    assert (one.source, one.scale) == (other.source, other.scale)


def test_a_clip_depends_on_seed_and_config_alone(clips):
    assert_same(make_clip(SEEDS[1], CONFIG), clips[1])
    assert_same(make_clip(SEEDS[0], CONFIG, num_threads=3), clips[0])
    assert not torch.equal(clips[0].frames, clips[1].frames)


def test_shapes_and_names(clips):
    for seed, clip in zip(SEEDS, clips, strict=True):
        assert clip.frames.shape == (13, 3, 32, 48)
        assert clip.depth.shape == (13, 32, 48)
        assert clip.num_path_frames == 9
        assert clip.source == f"procedural/{seed:08d}"
        assert clip.frames.dtype == clip.depth.dtype == torch.float32
        assert clip.cameras.world_to_camera.dtype == torch.float32
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1
        assert clip.frames[0].std() > 0.03


def test_unit_is_the_median_depth_of_the_first_frame(clips):
    for clip in clips:
        assert clip.depth[0].median().item() == pytest.approx(1, abs=1e-5)
        assert torch.equal(clip.cameras.world_to_camera[0], torch.eye(4))
        clip.cameras.validate(clip.source)
        # The sky, too, has a finite depth.
        assert clip.depth.max() < 1.3 * SKY_DISTANCE / clip.scale
        assert clip.depth.min() > 0.9 * NEAREST_SURFACE - 0.1


def test_travel_is_as_configured(clips):
    low, high = CONFIG.travel
    for clip in clips:
        path = clip.cameras.positions[: CONFIG.num_frames]
        steps = (path[1:] - path[:-1]).norm(dim=-1)
        # The unit was measured on a coarse depth map, the path is a polygon: 10% is ample.
        assert 0.9 * low < steps.sum() < 1.1 * high
        assert steps.max() < 4 * steps.mean()


def test_extra_views_come_near_first_then_far(clips):
    near, far = extra_views(CONFIG)
    assert (list(near), list(far)) == ([9, 10], [11, 12])
    for clip in clips:
        positions = clip.cameras.positions
        gaps = torch.cdist(positions, positions[: CONFIG.num_frames]).min(dim=1).values
        low, high = CONFIG.far_offset
        assert ((gaps[far.start :] > 0.9 * low) & (gaps[far.start :] < 1.1 * high)).all()
        # Past the path's ends it may be further than the largest offset by a fifth of the travel.
        most = CONFIG.near_offset[1] + 0.2 * CONFIG.travel[1]
        assert (gaps[list(near)] > 1e-3).all() and (gaps[list(near)] < 1.1 * most).all()


def test_extra_views_show_what_the_path_saw(clips):
    for clip in clips:
        for span in extra_views(CONFIG):
            view = span[0]
            seen = torch.zeros(32, 48, dtype=torch.bool)
            for source in (0, 4, 8):
                seen |= warp(clip, source, view)[1]
            assert seen.float().mean() > 0.55


def test_no_camera_is_inside_anything():
    for seed in SEEDS:
        scene, views, _ = draw_posed_scene(seed, CONFIG)
        gaps = clearance(scene, views.camera_to_world[:, :3, 3])
        assert gaps.min() >= NEAREST_SOLID * views.median_depth - 1e-9


def warp(clip: Clip, source: int, target: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The source frame as the target sees it through true depth, and where nothing hides it."""
    cameras, (height, width) = clip.cameras, clip.depth.shape[1:]
    to_source = cameras.world_to_camera[source].double()
    to_world = torch.linalg.inv(cameras.world_to_camera[target].double())
    lens = cameras.intrinsics[target].double()
    rays = pixel_centres(height, width) @ torch.linalg.inv(lens).T
    points = rays * clip.depth[target].double()[..., None]
    transform = to_source @ to_world
    local = points @ transform[:3, :3].T + transform[:3, 3]
    image = local @ lens.T
    u, v = image[..., 0] / image[..., 2], image[..., 1] / image[..., 2]
    grid = torch.stack([u / width * 2 - 1, v / height * 2 - 1], dim=-1)[None].float()
    stack = torch.cat([clip.frames[source], clip.depth[source][None]])[None]
    sampled = torch.nn.functional.grid_sample(
        stack, grid, align_corners=False, padding_mode="border"
    )[0]
    inside = (grid.abs() < 1).all(dim=-1)[0] & (local[..., 2] > 0)
    visible = inside & ((sampled[3] - local[..., 2]).abs() < 0.03 * local[..., 2])
    return sampled[:3], visible


def test_depth_and_cameras_carry_one_frame_into_another(clips):
    for clip in clips:
        last = CONFIG.num_frames - 1
        picture, visible = warp(clip, 0, last)
        assert visible.float().mean() > 0.3
        squared = (picture - clip.frames[last]).square().mean(dim=0)[visible]
        still = (clip.frames[0] - clip.frames[last]).square().mean(dim=0)[visible]
        assert squared.mean() < 0.25 * still.mean()
        # Resampling a small picture costs something at edges; surfaces themselves agree closely.
        assert squared.median().sqrt() < 0.02


def test_rooms_and_open_grounds():
    room = make_clip(1, CONFIG.model_copy(update={"room_share": 1.0}))
    ground = make_clip(1, CONFIG.model_copy(update={"room_share": 0.0}))
    assert room.depth.max() * room.scale < 25
    assert ground.depth.max() * ground.scale > 0.9 * SKY_DISTANCE


def test_a_single_view_without_extras():
    config = SceneConfig(height=16, width=24, num_frames=2, num_near=0, num_far=0, supersampling=1)
    assert make_clip(3, config).frames.shape == (2, 3, 16, 24)
    assert extra_views(config) == (range(2, 2), range(2, 2))


def test_cameras_that_no_scene_has_room_for_are_refused(monkeypatch):
    monkeypatch.setattr("data.procedural.clips.MAX_ATTEMPTS", 2)
    config = CONFIG.model_copy(update={"travel": (1.99, 2.0), "far_offset": (1.98, 1.99)})
    with pytest.raises(UserError, match=r"procedural/00000005: .*lower one"):
        make_clip(5, config)


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(UserError, match="travel"):
        load_config(None, ["travel=[0.7, 0.2]"], SceneConfig)


def test_frames_differ_between_seeds_in_more_than_colour():
    depths = [make_clip(seed, CONFIG).depth[0] for seed in (10, 11, 12)]
    correlation = np.corrcoef(np.stack([depth.log().flatten().numpy() for depth in depths]))
    assert correlation[np.triu_indices(3, 1)].max() < 0.995
