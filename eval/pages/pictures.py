"""Pictures for people: depth and error in colour, labelled grids, PNG bytes.

Images are float `[3 h w]` in [0, 1] on the CPU; a grid is rows of such images, all of one size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

DEPTH_COLOURS = ("#fff7d6", "#fdd48a", "#f69c62", "#d9606a", "#9a3f7c", "#552f76", "#1c1a44")
"""Near to far."""
ERROR_COLOURS = ("#000000", "#3b1257", "#94275f", "#e2553d", "#fbab2d", "#fdf8c4")
"""No error to `ERROR_TOP` and more."""
ERROR_TOP = 0.3
MIN_DEPTH_RATIO = 1.3
"""The depth scale spans at least this ratio, so that what is flat looks flat."""
UNKNOWN_COLOUR = (0.55, 0.55, 0.58)


def color_depth(
    depth: Float[Tensor, "*batch h w"], near: float | None = None, far: float | None = None
) -> Float[Tensor, "*batch 3 h w"]:
    """Depth in colour, light near and dark far, evenly in inverse depth; grey where it is 0 or not
    finite.

    near, far: depths [scene units] at the ends of the scale; by default the 2nd and 98th percentile
    of all known depths given, so that maps coloured in one call can be compared.
    """
    known = torch.isfinite(depth) & (depth > 0)
    if known.any():
        low, high = depth_range(depth)
        near, far = near or low, far or high
    else:
        near, far = 1.0, 2.0
    position = (1 / near - 1 / depth.clamp(min=1e-9)) / max(1 / near - 1 / far, 1e-9)
    picture = _paint(position, DEPTH_COLOURS)
    unknown = picture.new_tensor(UNKNOWN_COLOUR)[:, None, None].expand_as(picture)
    return torch.where(known[..., None, :, :], picture, unknown)


def depth_range(depth: Float[Tensor, "*shape"]) -> tuple[float, float]:
    """The 2nd and 98th percentile of the known (> 0, finite) depths, of which there must be some."""
    known = depth[torch.isfinite(depth) & (depth > 0)].double()
    low, high = torch.quantile(
        known[:: max(1, len(known) // 100_000)], known.new_tensor([0.02, 0.98])
    )
    return float(low), max(float(high), float(low) * MIN_DEPTH_RATIO)


def color_error(
    frames: Float[Tensor, "*batch 3 h w"], truth: Float[Tensor, "*batch 3 h w"]
) -> Float[Tensor, "*batch 3 h w"]:
    """Mean absolute difference over the channels: black for none, white from `ERROR_TOP` up."""
    return _paint((frames - truth).abs().mean(dim=-3) / ERROR_TOP, ERROR_COLOURS)


def to_uint8(frames: Float[Tensor, "*batch 3 h w"]) -> UInt8[np.ndarray, "*batch h w 3"]:
    """Images as 8-bit arrays with the channels last, rounded."""
    pixels = (frames.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def png_bytes(image: Float[Tensor, "3 h w"] | Image.Image) -> bytes:
    """A PNG file's bytes."""
    if isinstance(image, Tensor):
        image = Image.fromarray(to_uint8(image))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png_width(path: Path) -> int:
    """The width of a picture file, in pixels."""
    with Image.open(path) as image:
        return image.width


def draw_grid(
    rows: Sequence[Sequence[Float[Tensor, "3 h w"]]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    cell_width: int = 288,
) -> Image.Image:
    """Rows of equally sized images, labelled at the left and above, cells `cell_width` px wide."""
    assert len(rows) == len(row_labels) and all(len(row) == len(column_labels) for row in rows)
    _, height, width = rows[0][0].shape
    cell_height = round(cell_width * height / width)
    font = ImageFont.load_default(size=15)
    gap, top, left = 6, 30, 24 + max(int(font.getlength(label)) for label in row_labels)
    canvas = Image.new(
        "RGB",
        (
            left + len(column_labels) * (cell_width + gap),
            top + len(rows) * (cell_height + gap),
        ),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for column, label in enumerate(column_labels):
        middle = left + column * (cell_width + gap) + cell_width // 2
        draw.text((middle, top // 2), label, fill="#333333", font=font, anchor="mm")
    for row, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        y = top + row * (cell_height + gap)
        draw.text((12, y + cell_height // 2), label, fill="#333333", font=font, anchor="lm")
        for column, image in enumerate(images):
            cell = Image.fromarray(to_uint8(image)).resize(
                (cell_width, cell_height), Image.Resampling.BICUBIC
            )
            canvas.paste(cell, (left + column * (cell_width + gap), y))
    return canvas


def _paint(position: Float[Tensor, "*batch h w"], colours: Sequence[str]) -> Tensor:
    """Colours interpolated along a scale, at positions clamped to [0, 1]."""
    table = position.new_tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    place = position.nan_to_num(1.0).clamp(0, 1) * (len(colours) - 1)
    lower = place.floor().clamp(max=len(colours) - 2).long()
    share = (place - lower)[..., None]
    return (table[lower] * (1 - share) + table[lower + 1] * share).movedim(-1, -3)
