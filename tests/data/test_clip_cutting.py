"""Cutting captures: windows one after another, extras from around them, and an account of the rest."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from configs.errors import UserError
from data.clip_cutting import cut_capture


def numbered(make_clip, num_frames: int):
    """A capture whose frame i is filled with i / 255."""
    clip = make_clip(1, num_frames=num_frames, num_path_frames=num_frames)
    values = torch.arange(num_frames) / 255
    frames = values[:, None, None, None].expand_as(clip.frames)
    return dataclasses.replace(clip, frames=frames.contiguous())


def frame_numbers(clip) -> list[int]:
    return (clip.frames[:, 0, 0, 0] * 255).round().int().tolist()


def test_windows_follow_each_other_and_what_is_left_is_named(make_clip):
    cut = cut_capture(numbered(make_clip, 25), num_frames=9, stride=1, num_extra=0)
    assert [frame_numbers(clip) for clip in cut.clips] == [list(range(9)), list(range(9, 18))]
    assert (cut.num_frames, cut.unused) == (25, list(range(18, 25)))
    assert [clip.source for clip in cut.clips] == ["test/0001/000", "test/0001/001"]


def test_extra_views_come_from_between_and_around_the_path(make_clip):
    cut = cut_capture(numbered(make_clip, 30), num_frames=9, stride=2, num_extra=4)
    (clip,) = cut.clips
    assert clip.num_path_frames == 9 and clip.num_frames == 13
    numbers = frame_numbers(clip)
    assert numbers[:9] == list(range(0, 17, 2))
    extra = numbers[9:]
    assert not set(extra) & set(numbers[:9])
    assert extra == sorted(set(extra)) and max(extra) <= 24
    assert any(view < 16 for view in extra) and any(view > 16 for view in extra)
    assert cut.unused == [view for view in range(30) if view not in numbers]


def test_each_clip_is_relative_to_its_own_first_frame(make_clip):
    capture = numbered(make_clip, 18)
    clip = cut_capture(capture, num_frames=9, stride=1, num_extra=0).clips[1]
    assert torch.equal(clip.cameras.world_to_camera[0], torch.eye(4))
    assert float(clip.depth[0].median()) == pytest.approx(1.0)
    unit = float(capture.depth[9].median())
    expected = capture.cameras.positions[12] - capture.cameras.positions[9]
    found = clip.cameras.positions[3] - clip.cameras.positions[0]
    assert float(found.norm()) == pytest.approx(float(expected.norm()) / unit, rel=1e-5)


def test_a_capture_that_is_too_short_names_the_longest_clip_that_fits(make_clip):
    capture = numbered(make_clip, 20)
    with pytest.raises(UserError, match=r"20 usable frames; .* needs 25: use --frames 17"):
        cut_capture(capture, num_frames=25, stride=1, num_extra=0)
    with pytest.raises(UserError, match="needs 33: use --frames 17 --stride 1"):
        cut_capture(capture, num_frames=17, stride=2, num_extra=0)
    with pytest.raises(UserError, match="take more pictures, at least 9"):
        cut_capture(numbered(make_clip, 6), num_frames=9, stride=1, num_extra=0)
    with pytest.raises(UserError, match="expected 8k"):
        cut_capture(capture, num_frames=10, stride=1, num_extra=0)
