"""Windows of clips: which frames, in which order, and cameras in the window's own axes and unit."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from configs.errors import UserError
from data.clip_windows import Window, WindowConfig, load_window, window_cameras, window_scale
from data.shards import open_clip

NINE = WindowConfig(num_frames=9)


def test_names_are_read_back() -> None:
    for window in (Window(0, 1), Window(16, -1, True), Window(120, -3), Window(4, 2, True)):
        assert Window.from_key(window.key) == window
    for key in ("from0_step1.scale", "from0_step0", "text", "from-1_step1"):
        assert Window.from_key(key) is None


def test_draws_stay_on_the_path_and_cover_every_kind() -> None:
    config = WindowConfig(num_frames=9, strides=(1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    drawn = {config.draw(19, generator) for _ in range(1500)}
    assert {abs(w.step) for w in drawn} == {1, 2}  # at 3, nine frames need 25
    assert all(0 <= view < 19 for w in drawn for view in w.views(9))
    assert len(drawn) == 4 * (11 + 3)
    plain = WindowConfig(num_frames=9, backwards=False, mirrored=False)
    drawn = {plain.draw(10, generator) for _ in range(50)}
    assert drawn == {Window(0, 1), Window(1, 1)}


def test_stored_windows_are_a_subset_at_every_hop() -> None:
    windows = NINE.spread(19, hop=5)
    assert {w.first for w in windows if w.step > 0} == {0, 5, 10}
    assert {w.first for w in windows if w.step < 0} == {8, 13, 18}
    assert len(windows) == len(set(windows)) == 12
    forwards = NINE.model_copy(update={"backwards": False, "mirrored": False})
    assert forwards.among(windows) == [Window(0, 1), Window(5, 1), Window(10, 1)]
    assert NINE.model_copy(update={"strides": (2,)}).among(windows) == []


def test_a_backward_window_starts_at_the_last_frame_in_its_own_unit(shards) -> None:
    clip = open_clip(shards, 1)
    whole = clip.load()
    window = Window(8, -1)
    found = load_window(clip, window, 9)
    assert torch.equal(found.frames, whole.frames[:9].flip(0))
    median = float(whole.depth[8].median())
    assert window_scale(clip, window) == pytest.approx(median)
    assert found.scale == pytest.approx(whole.scale * median)
    assert torch.equal(found.cameras.world_to_camera[0], torch.eye(4))
    # The baseline between two frames is the same length in source units.
    expected = (whole.cameras.positions[8] - whole.cameras.positions[3]).norm() * whole.scale
    baseline = (found.cameras.positions[0] - found.cameras.positions[5]).norm() * found.scale
    torch.testing.assert_close(baseline, expected)
    # A point seen from frame 3 lands on the same pixel before and after.
    point = torch.tensor([[0.1, -0.2, 1.5]])
    old = whole.cameras.select(3).project(point)[0]
    local = whole.cameras.world_to_camera[8, :3] @ torch.cat([point[0], torch.ones(1)]) / median
    torch.testing.assert_close(
        found.cameras.select(5).project(local[None])[0], old, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("window", [Window(0, 1), Window(0, 1, True), Window(8, -1, True)])
def test_cameras_come_without_the_frames(shards, window) -> None:
    clip = open_clip(shards, 2)
    loaded = load_window(clip, window, 9)
    cameras = window_cameras(clip, window, 9, window_scale(clip, window))
    torch.testing.assert_close(cameras.world_to_camera, loaded.cameras.world_to_camera)
    torch.testing.assert_close(cameras.intrinsics, loaded.cameras.intrinsics)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match="9 frames at stride 1 need 9"):
        NINE.draw(8, torch.Generator())
    with pytest.raises(ValidationError, match=r"expected 8k\+1 frames"):
        WindowConfig(num_frames=12)
    with pytest.raises(ValidationError, match="each at least 1"):
        WindowConfig(strides=(0, 1))
