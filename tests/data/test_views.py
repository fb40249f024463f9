"""View sampling: what may be chosen, how often, and in which axes and units it comes back."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.errors import UserError
from data.shards import open_clip
from data.views import (
    ViewSampler,
    ViewSamplerConfig,
    check_frame_count,
    load_selection,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=150, deadline=None)
@given(
    groups=st.integers(1, 3),
    strides=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
    num_seen=st.integers(0, 9),
    num_unseen=st.integers(0, 12),
    spare=st.integers(0, 60),
    extra=st.integers(1, 9),
    reverse=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_selection_is_a_window_of_the_path_with_views_inside_and_outside_it(
    groups, strides, num_seen, num_unseen, spare, extra, reverse, seed
):
    num_input = 8 * groups + 1
    config = ViewSamplerConfig(
        num_input=num_input,
        strides=tuple(strides),
        num_seen=num_seen,
        num_unseen=num_unseen,
        reverse_probability=reverse,
    )
    num_path = (num_input - 1) * min(strides) + 1 + spare
    sampler = ViewSampler(config)
    for selection in [
        sampler.sample(num_path + extra, num_path, generator(seed)),
        sampler.evaluation(num_path + extra, num_path),
    ]:
        steps = {b - a for a, b in zip(selection.input, selection.input[1:], strict=False)}
        assert len(selection.input) == num_input
        assert len(steps) == 1 and abs(steps.pop()) in strides
        assert min(selection.input) >= 0 and max(selection.input) < num_path
        assert set(selection.seen) <= set(selection.input)
        assert not set(selection.unseen) & set(selection.input)
        assert all(0 <= view < num_path + extra for view in selection.unseen)
        assert len(selection.seen) == num_seen
        assert selection.targets == selection.seen + selection.unseen
        reach = (max(selection.input) - min(selection.input)) // 2
        beside = [view for view in selection.unseen if view < num_path]
        assert all(
            min(selection.input) - reach <= view <= max(selection.input) + reach for view in beside
        )
    sampled = sampler.sample(num_path + extra, num_path, generator(seed))
    assert sampled == sampler.sample(num_path + extra, num_path, generator(seed))
    assert len(sampled.unseen) == num_unseen


def test_windows_strides_and_directions_are_all_drawn():
    config = ViewSamplerConfig(num_input=9, strides=(1, 2), num_unseen=0, reverse_probability=0.25)
    sampler = ViewSampler(config)
    drawn = Counter()
    for seed in range(2000):
        views = sampler.sample(20, 20, generator(seed)).input
        drawn[views[1] - views[0]] += 1
        drawn["start", min(views), abs(views[1] - views[0])] += 1
    assert drawn[-1] + drawn[-2] == pytest.approx(500, abs=80)
    assert drawn[2] + drawn[-2] == pytest.approx(1000, abs=100)
    for start in range(12):
        assert drawn["start", start, 1] == pytest.approx(1000 / 12, abs=40)
    for start in range(4):
        assert drawn["start", start, 2] == pytest.approx(1000 / 4, abs=70)


def test_views_are_repeated_only_where_there_are_too_few():
    sampler = ViewSampler(ViewSamplerConfig(num_input=9, num_seen=9, num_unseen=7))
    selection = sampler.sample(12, 9, generator())
    assert sorted(selection.seen) == list(range(9))
    assert set(Counter(selection.unseen).values()) == {2, 3}
    assert sampler.evaluation(12, 9).unseen == [9, 10, 11]


def test_the_evaluation_selection_is_in_the_middle_and_evenly_spread():
    sampler = ViewSampler(
        ViewSamplerConfig(num_input=9, strides=(2, 1), num_seen=3, num_unseen=4, reach=1.0)
    )
    selection = sampler.evaluation(19, 15)
    assert selection.input == list(range(3, 12))
    assert selection.seen == [3, 7, 11]
    assert selection.unseen == [0, 12, 15, 18]


def test_frame_counts_must_be_8k_plus_1():
    for num_frames, nearest in [(8, "9 or 17"), (1, "9 or 17"), (16, "9 or 17"), (18, "17 or 25")]:
        with pytest.raises(UserError, match=rf"frames is {num_frames}; .* take {nearest}"):
            check_frame_count(num_frames, "frames")
    assert [check_frame_count(n, "frames") for n in (9, 17, 49)] == [9, 17, 49]
    with pytest.raises(ValidationError, match="num_input is 13; expected 8k"):
        ViewSamplerConfig(num_input=13)
    with pytest.raises(ValidationError, match="num_seen is 10, more than the 9"):
        ViewSamplerConfig(num_input=9, num_seen=10)
    with pytest.raises(ValidationError, match="expected one or more, each at least 1"):
        ViewSamplerConfig(strides=(0,))


def test_clips_that_are_too_short_or_have_no_other_views_are_refused():
    sampler = ViewSampler(ViewSamplerConfig(num_input=9, strides=(2, 3)))
    with pytest.raises(UserError, match="16 path frames; 9 input frames at stride 2 need 17"):
        sampler.sample(16, 16, generator())
    with pytest.raises(UserError, match="no view besides its 9 input frames"):
        ViewSampler(ViewSamplerConfig(num_input=9)).evaluation(9, 9)


def relative_projection(clip, first: int, second: int) -> torch.Tensor:
    """The transform from one camera to another, which no choice of world axes changes."""
    w2c = clip.cameras.world_to_camera.double()
    return w2c[second] @ torch.linalg.inv(w2c[first])


def test_loaded_views_share_axes_and_units(shards, make_clip):
    sampler = ViewSampler(
        ViewSamplerConfig(num_input=9, num_seen=2, num_unseen=2, reverse_probability=1.0)
    )
    original = make_clip(3)
    selection = sampler.sample(12, 9, generator())
    assert selection.input == list(range(8, -1, -1))
    inputs, targets = load_selection(open_clip(shards, 3), selection)
    assert torch.equal(inputs.cameras.world_to_camera[0], torch.eye(4))
    assert torch.equal(inputs.frames, original.frames[selection.input])
    assert torch.equal(targets.frames, original.frames[selection.targets])
    unit = float(original.depth[8].half().float().median())
    assert float(inputs.depth[0].median()) == pytest.approx(1.0)
    torch.testing.assert_close(
        targets.depth * unit, original.depth[selection.targets], rtol=1e-3, atol=0
    )
    for place, view in enumerate(selection.targets):
        expected = relative_projection(original, 8, view)
        expected[:3, 3] /= unit
        found = targets.cameras.world_to_camera[place].double()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert inputs.scale == pytest.approx(original.scale * unit)


def test_a_window_from_the_first_frame_is_loaded_as_stored(shards, make_clip):
    sampler = ViewSampler(ViewSamplerConfig(num_input=9, num_seen=0, num_unseen=0))
    selection = sampler.sample(12, 9, generator())
    inputs, targets = load_selection(open_clip(shards, 3), selection, depth=False)
    assert inputs.depth is None and targets is inputs
    assert torch.equal(inputs.cameras.world_to_camera, make_clip(3).cameras.world_to_camera[:9])
