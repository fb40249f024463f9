"""Cutting a long capture into clips of one length, and saying what is left over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.errors import UserError
from data.clips import Clip
from data.views import check_frame_count


@dataclass(frozen=True)
class Cut:
    """Clips cut from one capture, and the frames of it that are in none of them."""

    clips: list[Clip]
    num_frames: int
    unused: list[int]


@dataclass(frozen=True)
class PlannedCut:
    """Which frames of a capture become a clip: those of its path, and those of its extra views."""

    path: range
    extra: tuple[int, ...]

    @property
    def views(self) -> list[int]:
        return [*self.path, *self.extra]

    def describe(self) -> str:
        """As in "frames 0 to 48" or "frames 0 to 144 by 3"."""
        by = "" if self.path.step == 1 else f" by {self.path.step}"
        return f"frames {self.path[0]} to {self.path[-1]}{by}"


def plan_cuts(
    total: int,
    num_frames: int,
    strides: Sequence[int],
    num_extra: int,
    *,
    overlap: float = 0.0,
    name: str = "",
) -> list[PlannedCut]:
    """Clips of `num_frames` path frames one after another over a capture of `total` frames; none where it is short.

    strides: each clip has one of those at which it still fits, drawn by a generator that `name` seeds.
    num_extra: extra views of each clip at most: frames between its path frames and within half its span before
        and after it, evenly spaced.
    overlap: share of a clip's span after which the next begins the earlier; below 1.

    Raises UserError where the numbers make no sense.
    """
    check_frame_count(num_frames, "the number of frames in a clip")
    if not strides or min(strides) < 1 or num_extra < 0 or not 0 <= overlap < 1:
        raise UserError(
            f"strides {list(strides)} with {num_extra} extra views and an overlap of {overlap:g}; expected at least"
            " 1 and 0, and an overlap of at least 0 and below 1"
        )
    draws = random.Random(f"strides of {name}")
    cuts: list[PlannedCut] = []
    start = 0
    while fitting := [s for s in sorted(set(strides)) if start + (num_frames - 1) * s < total]:
        stride = draws.choice(fitting)
        span = (num_frames - 1) * stride + 1
        path = range(start, start + span, stride)
        cuts.append(PlannedCut(path, tuple(_extra_views(path, total, num_extra))))
        start += max(1, round(span * (1 - overlap)))
    return cuts


def cut_capture(capture: Clip, num_frames: int, stride: int, num_extra: int) -> Cut:
    """The clips that `plan_cuts` finds in a capture at one stride, without overlap.

    Clips are relative to their own first frame and scaled as `Clip.normalised` does; their source is
    "SOURCE/000", "SOURCE/001" and so on.

    Raises UserError where `num_frames` is not 8k+1, or the capture is shorter than one clip.
    """
    total = capture.num_path_frames
    plan = plan_cuts(total, num_frames, (stride,), num_extra)
    if not plan:
        raise UserError(
            f"{capture.source}: has {total} usable frames; a clip of {num_frames} frames at stride"
            f" {stride} needs {(num_frames - 1) * stride + 1}: {_advice(total)}"
        )
    clips: list[Clip] = []
    for number, cut in enumerate(plan):
        source = f"{capture.source}/{number:03d}"
        clip = replace(capture.select(cut.views), num_path_frames=num_frames, source=source)
        clips.append(clip.normalised())
    used = {view for cut in plan for view in cut.views}
    unused = [view for view in range(capture.num_frames) if view not in used]
    return Cut(clips, capture.num_frames, unused)


def _extra_views(path: Sequence[int], total: int, count: int) -> list[int]:
    margin = (path[-1] - path[0]) // 2
    given = set(path)
    nearby = range(max(0, path[0] - margin), min(total, path[-1] + margin + 1))
    others = [view for view in nearby if view not in given]
    if len(others) <= count:
        return others
    return [others[int((i + 0.5) * len(others) / count)] for i in range(count)]


def _advice(total: int) -> str:
    longest = (total - 1) // 8 * 8 + 1
    if longest < 9:
        return "take more pictures, at least 9"
    return f"use --frames {longest} --stride 1, or take more pictures"
