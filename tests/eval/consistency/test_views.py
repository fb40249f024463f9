"""Which views are fitted and judged, and what is told beside a consistency score."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.errors import UserError
from data.clips import Clip
from eval.consistency.perturbations import perturb
from eval.consistency.views import (
    OVERLAP_DEPTH,
    copy_psnr,
    held_out_views,
    motion,
    overlap,
    prepare_clip,
    sharpness,
    shuffled_cameras,
)


def test_held_out_views_lie_between_fitted_ones_and_seeds_cover_all():
    assert held_out_views(24, 4) == [2, 6, 10, 14, 18, 22]
    every = [held_out_views(24, 4, seed) for seed in range(4)]
    assert sorted(view for views in every for view in views) == list(range(1, 23))
    for num_views in range(5, 12):
        for seed in range(6):
            views = held_out_views(num_views, 4, seed)
            assert views and 0 not in views and num_views - 1 not in views


def test_shuffling_keeps_the_input_and_no_other_camera_in_its_place(clip):
    dealt = shuffled_cameras(clip.cameras, 3)
    same = (dealt.world_to_camera == clip.cameras.world_to_camera).flatten(1).all(dim=1)
    assert same.tolist() == [True] + [False] * (clip.num_frames - 1)
    order = torch.cdist(dealt.positions, clip.cameras.positions).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(clip.num_frames))
    again = shuffled_cameras(clip.cameras, 3)
    assert torch.equal(again.world_to_camera, dealt.world_to_camera)


def test_prepared_clips_do_not_depend_on_origin_and_unit(clip):
    turned = clip.cameras.world_to_camera[5].double()
    moved = replace(
        clip.cameras.to(torch.float64),
        world_to_camera=clip.cameras.world_to_camera.double() @ turned,
    ).rescaled(1 / 700.0)
    first = prepare_clip(clip, 128, 64)
    other = prepare_clip(replace(clip, cameras=moved), 128, 64)
    assert torch.allclose(first.cameras.world_to_camera, other.cameras.world_to_camera, atol=1e-3)
    assert torch.equal(first.cameras.world_to_camera[0], torch.eye(4))


def test_tall_frames_and_many_views_are_reduced(clip):
    small = prepare_clip(clip, 16, 6)
    assert small.frames.shape == (6, 3, 16, 24)
    assert (small.cameras.height, small.cameras.width) == (16, 24)
    assert torch.allclose(
        small.cameras.intrinsics[:, :2] * 2, clip.cameras.intrinsics[:6, :2], rtol=1e-4
    )
    mean = torch.nn.functional.avg_pool2d(clip.frames[:1], 2)
    assert torch.allclose(small.frames[:1], mean, atol=1e-5)


def test_what_cannot_be_scored_is_told(clip):
    with pytest.raises(UserError, match="4 frames where at least 5"):
        prepare_clip(clip.select(range(4)), 128, 64)
    broken = replace(clip, frames=clip.frames.clone())
    broken.frames[3, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="frame 3"):
        prepare_clip(broken, 128, 64)
    broken = replace(clip, frames=torch.cat([clip.frames[:2], 0 * clip.frames[2:]]))
    with pytest.raises(UserError, match="black"):
        prepare_clip(broken, 128, 64)
    flat = torch.rand(clip.num_frames, 3, 1, 1).expand_as(clip.frames) * 0.5 + 0.2
    with pytest.raises(UserError, match="every frame is of one colour"):
        prepare_clip(replace(clip, frames=flat.contiguous()), 128, 64)
    mirrored = replace(clip.cameras, world_to_camera=-clip.cameras.world_to_camera)
    with pytest.raises(UserError, match="camera 0"):
        prepare_clip(replace(clip, cameras=mirrored), 128, 64)
    tiny = Clip(
        clip.frames[..., :10, :], clip.cameras.crop(0, 0, 10, clip.cameras.width), "tiny", 9
    )
    with pytest.raises(UserError, match="expected at least 16 px"):
        prepare_clip(tiny, 128, 64)


def test_overlap_is_whole_for_neighbours_and_nothing_for_one_who_looks_away(clip):
    assert overlap(clip.cameras, 2, [1, 3]) > 0.9
    away = clip.cameras.world_to_camera.clone()
    away[2] = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))  # half a turn
    turned = replace(clip.cameras, world_to_camera=away)
    assert overlap(turned, 2, [1, 3]) == 0


def test_a_shift_of_half_a_frame_overlaps_by_half(clip):
    moved = torch.eye(4).repeat(2, 1, 1)
    width_there = clip.cameras.width / float(clip.cameras.intrinsics[0, 0, 0])
    moved[1, 0, 3] = -0.5 * width_there * OVERLAP_DEPTH
    cameras = replace(clip.cameras.select([0, 1]), world_to_camera=moved)
    assert overlap(cameras, 0, [1]) == pytest.approx(0.5, abs=0.05)


def test_easy_views_show_in_what_is_told_beside_the_score(clip):
    judged, fitted = [2, 6], [0, 1, 3, 4, 5, 7, 8]
    still, blurred = perturb(clip, "still", 4), perturb(clip, "blurred", 5)
    assert copy_psnr(still, judged, fitted) > copy_psnr(clip, judged, fitted) + 3
    assert motion(still.frames) < 0.5 * motion(clip.frames)
    assert sharpness(blurred.frames[1:]) < 0.7 * sharpness(clip.frames[1:])
