"""Cutting a long capture into clips of one length, and saying what is left over."""

from __future__ import annotations

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


def cut_capture(capture: Clip, num_frames: int, stride: int, num_extra: int) -> Cut:
    """Clips of `num_frames` path frames, `stride` capture frames apart, one after another without overlap.

    Each clip gets up to `num_extra` extra views: capture frames between its path frames and within half
    its span before and after it, evenly spaced. Clips are relative to their own first frame and scaled as
    `Clip.normalised` does; their source is "SOURCE/000", "SOURCE/001" and so on.

    Raises UserError where `num_frames` is not 8k+1, or the capture is shorter than one clip.
    """
    check_frame_count(num_frames, "the number of frames in a clip")
    if stride < 1 or num_extra < 0:
        raise UserError(f"stride {stride} with {num_extra} extra views; expected at least 1 and 0")
    total = capture.num_path_frames
    span = (num_frames - 1) * stride + 1
    if span > total:
        raise UserError(
            f"{capture.source}: has {total} usable frames; a clip of {num_frames} frames at stride"
            f" {stride} needs {span}: {_advice(total)}"
        )
    clips: list[Clip] = []
    used: set[int] = set()
    for start in range(0, total - span + 1, span):
        path = list(range(start, start + span, stride))
        extra = _extra_views(path, total, num_extra)
        used.update(path, extra)
        clip = replace(
            capture.select(path + extra),
            num_path_frames=num_frames,
            source=f"{capture.source}/{len(clips):03d}",
        )
        clips.append(clip.normalised())
    unused = [view for view in range(capture.num_frames) if view not in used]
    return Cut(clips, capture.num_frames, unused)


def _extra_views(path: list[int], total: int, count: int) -> list[int]:
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
