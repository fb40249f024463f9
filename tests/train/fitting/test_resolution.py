"""Frames at growing resolution, and the cameras that go with them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from models.rendering.render import render
from train.fitting.resolution import Pyramid, ResolutionConfig, shrink_size

GREY = torch.full((3,), 0.5)


def stages(*pairs: tuple[float, int]) -> ResolutionConfig:
    return ResolutionConfig.model_validate(
        {"stages": [{"start": start, "shrink": shrink} for start, shrink in pairs]}
    )


def test_each_stage_holds_until_the_next(scene, cameras, frames):
    pyramid = Pyramid(frames, cameras, None, stages((0, 4), (0.3, 2), (0.6, 1)))
    heights = [pyramid.at(p).cameras.height for p in (0.0, 0.29, 0.3, 0.59, 0.6, 1.0)]
    assert heights == [16, 16, 16, 16, 24, 24]  # no side below 16 px
    assert pyramid.at(1.0).frames is frames


def test_small_frames_are_what_small_cameras_see(scene):
    from data.cameras import Cameras, intrinsics_from_fov

    camera = Cameras(torch.eye(4)[None], intrinsics_from_fov(50.0, 96, 128)[None], 96, 128)
    frames = render(scene, camera, background=GREY).frames
    depth = torch.ones(1, 96, 128)
    level = Pyramid(frames, camera, depth, stages((0, 2))).at(0.0)
    drawn = render(scene, level.cameras, background=GREY, eps2d=0.1).frames
    assert level.frames.shape == drawn.shape == (1, 3, 48, 64) and level.depth.shape == (1, 48, 64)
    assert (drawn - level.frames).abs().mean() < 0.004


def test_sizes_stop_at_the_least_side():
    assert shrink_size(64, 96, 2) == (32, 48)
    assert shrink_size(64, 96, 8) == (16, 16)
    assert shrink_size(12, 96, 4) == (12, 24)


@pytest.mark.parametrize("wrong", [(), ((0.1, 2),), ((0, 2), (0.5, 1), (0.3, 1))])
def test_stages_out_of_order_are_refused(wrong):
    with pytest.raises(ValidationError, match="expected 0 first"):
        stages(*wrong)
