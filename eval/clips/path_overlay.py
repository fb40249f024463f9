"""Two camera paths in one picture: the commanded one, and the one that was found in the frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.cameras import Cameras
from eval.cameras.path_error import largest_distance, moves

SIDE, MARGIN, SMOOTH = 320, 44, 3
COMMANDED, FOUND, APART = "#4a90b8", "#c2512f", "#c9c7c0"
PANELS = (
    ("from above", 0, 2, "right", "forward", 1.0),
    ("from the side", 2, 1, "forward", "up", -1.0),
)
"""Title, the axes to the right and upward, what they are called, and the sign of the upward one."""


def draw_paths(commanded: Cameras, found: Cameras, views: Sequence[int]) -> Image.Image:
    """Both paths from above and from the side, each relative to the first view that was placed, in its own span.

    found: the cameras of `views`. Thin lines join what should be in one place; rings mark the first view.
    """
    wanted = _normalised(commanded.select(list(views)))
    reached = _normalised(found)
    everything = torch.cat([wanted, reached])
    width = len(PANELS) * (SIDE + 2 * MARGIN)
    picture = Image.new("RGB", (width * SMOOTH, (SIDE + 2 * MARGIN) * SMOOTH), "white")
    draw = ImageDraw.Draw(picture)
    labels = []
    extent = max(0.2, float((everything.amax(dim=0) - everything.amin(dim=0)).max())) * 1.15
    for number, (title, across, along, right, up, sign) in enumerate(PANELS):
        left = MARGIN + number * (SIDE + 2 * MARGIN)
        flip = torch.tensor([1.0, sign], dtype=torch.float64)
        low = _corner(everything[:, [across, along]] * flip, extent)
        draw.rectangle(_box(left), outline="#e4e2dc", width=SMOOTH)
        lines = [
            _pixels(path[:, [across, along]] * flip, low, extent, left)
            for path in (wanted, reached)
        ]
        for one, two in zip(*lines, strict=True):
            draw.line([one, two], fill=APART, width=SMOOTH)
        for line, colour in zip(lines, (COMMANDED, FOUND), strict=True):
            draw.line(line, fill=colour, width=2 * SMOOTH, joint="curve")
            for place, (x, y) in enumerate(line):
                radius = (7 if place == 0 else 3) * SMOOTH
                ring = (x - radius, y - radius, x + radius, y + radius)
                if place == 0:
                    draw.ellipse(ring, outline=colour, width=2 * SMOOTH)
                else:
                    draw.ellipse(ring, fill=colour)
        labels.append((left, f"{title}: across {right}, upward {up}"))
    picture = picture.resize((width, SIDE + 2 * MARGIN), Image.Resampling.LANCZOS)
    _write_labels(picture, labels)
    return picture


def _normalised(cameras: Cameras) -> Float[Tensor, "v 3"]:
    """Positions relative to the first camera and its axes, the largest distance 1 where the camera moves."""
    to_world = cameras.to(torch.float64).relative_to(0).camera_to_world
    return to_world[:, :3, 3] / (largest_distance(to_world) if moves(cameras) else 1.0)


def _corner(points: Float[Tensor, "n 2"], extent: float) -> Float[Tensor, " 2"]:
    """Lower corner of a square of this side around all points."""
    return (points.amin(dim=0) + points.amax(dim=0)) / 2 - extent / 2


def _pixels(
    points: Float[Tensor, "n 2"], low: Float[Tensor, " 2"], extent: float, left: int
) -> list[tuple[float, float]]:
    share = (points - low) / extent
    return [
        ((left + SIDE * x) * SMOOTH, (MARGIN + SIDE * (1 - y)) * SMOOTH) for x, y in share.tolist()
    ]


def _box(left: int) -> tuple[int, int, int, int]:
    corner = (left, MARGIN, left + SIDE, MARGIN + SIDE)
    return tuple(SMOOTH * value for value in corner)  # type: ignore[return-value]


def _write_labels(picture: Image.Image, labels: Sequence[tuple[int, str]]) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    for left, text in labels:
        draw.text((left, MARGIN + SIDE + 16), text, fill="#6a6a75", font=font, anchor="lm")
    draw.text((MARGIN, MARGIN - 14), "commanded", fill=COMMANDED, font=font, anchor="lm")
    shift = MARGIN + font.getlength("commanded") + 16
    draw.text((shift, MARGIN - 14), "found in the frames", fill=FOUND, font=font, anchor="lm")
