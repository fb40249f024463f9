"""Clips: what they refuse, and what normalising keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from configs.errors import UserError
from data.clips import TYPICAL_SPAN, scene_scale


def with_cameras(clip, **changes):
    return dataclasses.replace(clip, cameras=dataclasses.replace(clip.cameras, **changes))


def test_contradictions_are_refused(make_clip):
    clip = make_clip(2)
    with pytest.raises(UserError, match="test/0002: 12 frames but 11 cameras"):
        dataclasses.replace(clip, cameras=clip.cameras.select(range(11)))
    with pytest.raises(UserError, match="frames are 16x24 but the cameras say 16x32"):
        with_cameras(clip, width=32)
    for count in (0, 13):
        with pytest.raises(UserError, match=f"num_path_frames is {count}, expected 1 to 12"):
            dataclasses.replace(clip, num_path_frames=count)


def test_selecting_keeps_frames_cameras_and_depth_together(make_clip):
    clip = make_clip(2)
    chosen = clip.select([7, 2])
    assert torch.equal(chosen.frames, clip.frames[[7, 2]])
    assert torch.equal(chosen.depth, clip.depth[[7, 2]])
    assert torch.equal(chosen.cameras.world_to_camera, clip.cameras.world_to_camera[[7, 2]])
    assert chosen.num_path_frames == 2


def test_normalising_changes_axes_and_unit_and_nothing_that_is_seen(make_clip):
    clip = make_clip(2)
    moved = with_cameras(
        clip,
        world_to_camera=clip.cameras.world_to_camera
        @ torch.linalg.inv(torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))),
    )
    normalised = moved.normalised()
    unit = float(clip.depth[0].median())
    assert torch.equal(normalised.cameras.world_to_camera[0], torch.eye(4))
    assert float(normalised.depth[0].median()) == pytest.approx(1.0)
    assert normalised.scale == pytest.approx(clip.scale * unit)
    # A point that lies behind a pixel of one frame at its depth is seen at the same pixel of another.
    pixel = torch.tensor([5.5, 7.5, 1.0])
    for one, other in [(0, 4), (3, 8)]:
        projected = []
        for current in (moved, normalised):
            cameras = current.cameras
            local = torch.linalg.inv(cameras.intrinsics[one]) @ pixel * current.depth[one, 7, 5]
            world = cameras.camera_to_world[one] @ torch.cat([local, torch.ones(1)])
            projected.append(cameras.select(other).project(world[None, :3])[0])
        torch.testing.assert_close(projected[0], projected[1], rtol=1e-4, atol=1e-3)


def test_normalising_twice_is_normalising_once(make_clip):
    once = make_clip(3).normalised()
    twice = once.normalised()
    torch.testing.assert_close(twice.cameras.world_to_camera, once.cameras.world_to_camera)
    assert twice.scale == pytest.approx(once.scale)


def test_the_scale_is_the_median_of_known_depths_or_taken_from_the_travel(make_clip):
    cameras = make_clip(0).cameras
    depth = torch.tensor([0.0, 0.0, 2.0, 3.0, 10.0, float("nan")])
    assert scene_scale(cameras, depth) == pytest.approx(3.0)
    travel = float((cameras.positions - cameras.positions[0]).norm(dim=-1).max())
    assert scene_scale(cameras) == pytest.approx(travel / TYPICAL_SPAN)
    assert scene_scale(cameras, torch.zeros(5)) == pytest.approx(travel / TYPICAL_SPAN)
    assert scene_scale(cameras.select([0])) == 1.0


def test_a_first_frame_without_depth_is_scaled_by_the_others(make_clip):
    clip = make_clip(4)
    depth = clip.depth.clone()
    depth[0] = 0
    partly = dataclasses.replace(clip, depth=depth)
    known = depth[depth > 0].median()
    assert partly.normalised().scale == pytest.approx(clip.scale * float(known))


def test_normalising_far_from_the_origin_keeps_precision_and_the_frames_dtype(make_clip):
    """Cameras a million units out, a unit apart, as in geographic coordinates."""
    clip = make_clip(5)
    here = clip.cameras.to(torch.float64)
    offset = torch.eye(4, dtype=torch.float64)
    offset[:3, 3] = 1e6
    there = dataclasses.replace(
        clip, cameras=dataclasses.replace(here, world_to_camera=here.world_to_camera @ offset)
    )
    found = there.normalised(1.0).cameras.world_to_camera
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, clip.normalised(1.0).cameras.world_to_camera, atol=1e-5, rtol=0
    )
