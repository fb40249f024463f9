"""Depth by plane sweep: near the truth on procedural scenes, sane where there is nothing to find."""

from __future__ import annotations

import pytest
import torch

from data.cameras import Cameras
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from train.swept_depth import (
    SweepConfig,
    agreeing_frames,
    fill_in,
    nearest_neighbours,
    swept_depth,
)

SCENE = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0, travel=(0.4, 0.6))
CONFIG = SweepConfig(num_distances=32)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(31, SCENE)


def relative_error(found: torch.Tensor, clip: Clip) -> torch.Tensor:
    return (found - clip.depth).abs() / clip.depth


def test_it_finds_the_depth_of_a_scene(clip):
    found = swept_depth(clip.frames, clip.cameras, CONFIG)
    assert found.shape == clip.depth.shape
    error = relative_error(found, clip)
    assert error.median() < 0.1
    constant = relative_error(clip.depth.median().expand_as(clip.depth), clip)
    assert error.median() < 0.35 * constant.median()


def test_it_is_the_same_for_any_unit_and_any_number_of_threads(clip):
    found = swept_depth(clip.frames, clip.cameras, CONFIG)
    doubled = SweepConfig(near=2 * CONFIG.near, far=2 * CONFIG.far, num_distances=32)
    larger = swept_depth(clip.frames, clip.cameras.rescaled(0.5), doubled)
    assert torch.allclose(larger, 2 * found, rtol=1e-3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(swept_depth(clip.frames, clip.cameras, CONFIG), found)
    finally:
        torch.set_num_threads(before)


def test_frames_larger_than_the_sweep_get_full_maps(clip):
    found = swept_depth(clip.frames, clip.cameras, SweepConfig(max_height=24, num_distances=32))
    assert found.shape == clip.depth.shape
    assert relative_error(found, clip).median() < 0.15


@pytest.mark.parametrize("num_views", [1, 2])
def test_few_views_and_flat_frames_give_finite_positive_depth(clip, num_views):
    frames, cameras = clip.frames[:num_views], clip.cameras.select(range(num_views))
    for shown in (frames, torch.full_like(frames, 0.4)):
        found = swept_depth(shown, cameras, CONFIG)
        assert torch.isfinite(found).all() and (found > 0).all()


def test_true_depths_agree_and_random_ones_do_not(clip):
    far_apart = torch.tensor(
        [[4, 8], [5, 8], [6, 8], [7, 8], [0, 8], [0, 1], [0, 2], [0, 3], [0, 4]]
    )
    true = agreeing_frames(clip.depth, clip.cameras, far_apart, 5.0)
    generator = torch.Generator().manual_seed(0)
    random = 1 / (0.3 + 3 * torch.rand(clip.depth.shape, generator=generator))
    false = agreeing_frames(random, clip.cameras, far_apart, 5.0)
    assert (true == 2).float().mean() > 0.6
    assert (false == 2).float().mean() < 0.05


def test_neighbours_in_one_place_agree_on_nothing(clip):
    still = Cameras(
        clip.cameras.world_to_camera[:1].repeat(3, 1, 1),
        clip.cameras.intrinsics[:3],
        clip.cameras.height,
        clip.cameras.width,
    )
    found = agreeing_frames(clip.depth[:3], still, nearest_neighbours(still, 2), 5.0)
    assert not found.any()


def test_neighbours_are_the_nearest_views_and_never_the_view_itself(clip):
    neighbours = nearest_neighbours(clip.cameras, 2)
    assert neighbours[0].tolist() == [1, 2]
    assert sorted(neighbours[4].tolist()) == [3, 5]
    assert nearest_neighbours(clip.cameras, 100).shape == (9, 8)


def test_gaps_are_filled_from_around_them():
    values = torch.arange(24.0).view(1, 4, 6)
    known = torch.ones(1, 4, 6, dtype=torch.bool)
    known[0, 1, 2] = False
    filled = fill_in(values, known)
    assert torch.equal(filled[known], values[known])
    assert filled[0, 1, 2] == pytest.approx((2 + 3 + 9) / 3)  # the known ones of its 2x2 cell
    nothing = torch.zeros_like(known)
    assert torch.equal(fill_in(values, nothing), values)
    nothing[0, 0, 0] = True
    assert torch.equal(fill_in(values, nothing), torch.zeros_like(values))
