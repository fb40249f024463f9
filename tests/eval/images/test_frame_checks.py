from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from eval.images.frame_checks import check_frames, check_pair


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(6, 3, 20, 30, generator=torch.Generator().manual_seed(0))


def test_good_frames_pass(frames):
    check_frames(frames, "clip")
    check_frames(frames[:1], "photo", least=1)
    check_pair(frames, frames.flip(0), "clip")
    check_frames(frames * 1.0005, "clip")  # what a codec's arithmetic leaves
    check_frames(0.05 * frames, "a dark scene")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda x: x[:1], "my.mp4: 1 frame where at least 2"),
        (lambda x: x[:0], "my.mp4: 0 frames"),
        (lambda x: x.where(torch.arange(6)[:, None, None, None] != 4, torch.nan), "NaN .* frame 4;"),
        (lambda x: x.where(torch.arange(6)[:, None, None, None] < 4, torch.inf), "frames 4, 5;"),
        (lambda x: x * 255, "0 to 1: divide them by 255"),
        (lambda x: 2 * x - 1, r"map them from \[-1, 1\]"),
        (lambda x: 1.4 * x, "clamp"),
        (lambda x: 0 * x, "frames 0, 1, 2, 3, 4 and 1 more are black"),
        (lambda x: torch.cat([x, 0.02 * x[:1]]), "frame 6 is black"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_with_its_frames(frames, broken, message):
    with pytest.raises(UserError, match=message) as found:
        check_frames(broken(frames), "my.mp4")
    assert "\n" not in str(found.value)


def test_frames_that_are_not_scored_may_be_anything(frames):
    frames[5] = torch.nan
    check_frames(frames, "clip", views=range(5))
    with pytest.raises(UserError, match="frame 5"):
        check_frames(frames, "clip", views=[2, 5])


def test_a_reference_of_another_shape_is_refused_not_resized(frames):
    with pytest.raises(UserError, match="clip: 6 frames, but the reference has 5"):
        check_pair(frames, frames[:5], "clip")
    with pytest.raises(UserError, match="20x30 but the reference is 30x20"):
        check_pair(frames, frames.mT.contiguous(), "clip")
    with pytest.raises(UserError, match="clip, reference: .* black"):
        check_pair(frames, torch.zeros_like(frames), "clip")
