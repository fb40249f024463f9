"""Whether frames can be scored at all, told before anything is measured on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from configs.errors import UserError

BLACK = 8 / 255
"""A frame without any value above this is black: no picture, but the trace of something that failed."""
SLACK = 1e-3
"""Values this far outside [0, 1] are rounding."""
SHOWN = 5
"""So many frames are named in a message."""


def check_frames(
    frames: Float[Tensor, "t 3 h w"],
    source: str,
    least: int = 2,
    views: Sequence[int] | None = None,
) -> None:
    """Raises UserError where frames are fewer than `least`, not finite, outside [0, 1], or black.

    views: the frames whose content matters; None means all. A black frame is refused, not scored: it is what a
    failed decoder leaves, and it scores well wherever the truth is dark.
    """
    check_num_frames(frames, source, least)
    numbers = list(range(len(frames)) if views is None else views)
    flat = frames[numbers].flatten(1)
    if bad := _where(~torch.isfinite(flat).all(dim=1), numbers):
        raise UserError(
            f"{source}: NaN or infinite values in {_named(bad)}; the model or the decoder that made them failed"
            " (half precision overflows, for one): make them again"
        )
    low, high = float(flat.min()), float(flat.max())
    if low < -SLACK or high > 1 + SLACK:
        cure = "divide them by 255" if high > 2 else "map them from [-1, 1] or clamp them first"
        raise UserError(f"{source}: values from {low:.3g} to {high:.3g}; expected 0 to 1: {cure}")
    if black := _where(flat.amax(dim=1) <= BLACK, numbers):
        raise UserError(
            f"{source}: {_named(black)} {'is' if len(black) == 1 else 'are'} black (no value"
            f" above {BLACK * 255:.0f} of 255); leave black frames out of the clip, or make it again"
        )


def check_num_frames(frames: Float[Tensor, "t 3 h w"], source: str, least: int = 2) -> None:
    """Raises UserError where frames are fewer than `least`."""
    if len(frames) < least:
        raise UserError(
            f"{source}: {_frames(len(frames))} where at least {least} are needed; give a video or a folder"
            " with all its frames"
        )


def check_pair(
    frames: Float[Tensor, "t 3 h w"],
    reference: Float[Tensor, "u 3 g v"],
    source: str,
    views: Sequence[int] | None = None,
) -> None:
    """Raises UserError where frames and their reference differ in number or size, or cannot be scored.

    Nothing is resized or cut to fit: what is done to frames before they are compared changes every number.
    views: the frames that are scored, whose content must do; None means all.
    """
    if len(frames) != len(reference):
        raise UserError(
            f"{source}: {_frames(len(frames))}, but the reference has {len(reference)}; give the reference's"
            " frames of the same moments, one each"
        )
    size, expected = tuple(frames.shape[-2:]), tuple(reference.shape[-2:])
    if size != expected:
        raise UserError(
            f"{source}: frames are {size[0]}x{size[1]} but the reference is {expected[0]}x{expected[1]};"
            " bring both to one size and crop yourself, since the way of doing so changes the scores"
        )
    check_frames(frames, source, views=views)
    check_frames(reference, f"{source}, reference", views=views)


def _where(found: Bool[Tensor, " v"], numbers: Sequence[int]) -> list[int]:
    return [number for number, is_so in zip(numbers, found.tolist(), strict=True) if is_so]


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _named(frames: list[int]) -> str:
    """`frame 3`, `frames 3, 4, 7`, `frames 0, 1, 2, 3, 4 and 12 more`."""
    shown = ", ".join(str(frame) for frame in frames[:SHOWN])
    more = f" and {len(frames) - SHOWN} more" if len(frames) > SHOWN else ""
    return f"frame{'s' if len(frames) > 1 else ''} {shown}{more}"
