"""Tiles, their blocks, and how a splat falls off over a block. Layout and legend: cpu_rows.py.

The sixteen pixels of a block are the lanes of simd.py. A set of a tile's blocks is a 64-bit mask, row 0 in the
lowest byte, so "blocks that this splat can reach and that are not finished" is one AND.
"""

from __future__ import annotations

import numpy as np

from models.rendering.kernels import inline
from models.rendering.simd import (
    byte_spans,
    ceil,
    exp2,
    floor,
    fma,
    lane_numbers,
    maximum,
    minimum,
    splat,
    sqrt,
)

MIN_ELLIPSE = 6
"""From so many blocks (less one row and column) on, cutting the bounding box to the ellipse pays."""


@inline
def pixel_centers():
    """x of a block's sixteen pixels for each of the 8 block columns, and y for each of the 8 block rows [px]."""
    centers_x, centers_y = np.empty(8 * 16, np.float32), np.empty(8 * 16, np.float32)
    for block in range(8):
        for lane in range(16):
            centers_x[block * 16 + lane] = block * 4 + lane % 4 + 0.5
            centers_y[block * 16 + lane] = block * 4 + lane // 4 + 0.5
    return centers_x, centers_y


@inline
def falloff(factor_a, factor_b, factor_c, dx, dy):
    """u, v and 2^-(u^2 + v^2). Forward and backward share it, so that they agree to the bit."""
    u = fma(factor_a, dx, factor_b * dy)
    v = factor_c * dy
    return u, v, exp2(-fma(u, u, v * v))


@inline
def block_range(center, extent):
    """First and last of the tile's 8 block columns (or rows) with a pixel centre within `extent`."""
    first = (center - extent - np.float32(3.5)) * np.float32(0.25)
    last = (center + extent - np.float32(0.5)) * np.float32(0.25)
    return (
        np.int64(np.ceil(min(max(first, np.float32(0)), np.float32(8)))),
        np.int64(np.floor(max(min(last, np.float32(7)), np.float32(-1)))),
    )


@inline
def reachable_blocks(x, y, factor_a, factor_b, factor_c, extent_x, extent_y):
    """The blocks where alpha may reach its threshold; the centre (x, y) is relative to the tile's corner."""
    first_column, last_column = block_range(x, extent_x)
    first_row, last_row = block_range(y, extent_y)
    if first_column > last_column or first_row > last_row:
        return np.uint64(0)
    one, full = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
    columns = (one << np.uint64(last_column + 1)) - (one << np.uint64(first_column))
    rows = (full >> np.uint64(56 - 8 * last_row)) & (full << np.uint64(8 * first_row))
    box = (columns * np.uint64(0x0101010101010101)) & rows
    if (last_column - first_column) * (last_row - first_row) < MIN_ELLIPSE:
        return box

    # The ellipse's right edge is dx = slope dy + steepness sqrt(extent_y^2 - dy^2), farthest at dy = peak; the
    # left edge is its mirror image. Lane i is block row i, whose pixel centres have dy in [top, top + 3].
    inverse_a = np.float32(1) / factor_a
    slope, steepness = -factor_b * inverse_a, factor_c * inverse_a
    square = extent_y * extent_y
    peak = slope * square / extent_x
    top = fma(lane_numbers(), 4.0, np.float32(0.5) - y)
    right_dy = minimum(maximum(splat(peak), top), top + 3.0)
    left_dy = minimum(maximum(splat(-peak), top), top + 3.0)
    right = slope * right_dy + steepness * sqrt(maximum(square - right_dy * right_dy, 0.0))
    left = slope * left_dy - steepness * sqrt(maximum(square - left_dy * left_dy, 0.0))
    # A thousandth of a pixel more on either side, for rounding.
    first = ceil((left + (x - np.float32(3.501))) * 0.25)
    last = floor((right + (x - np.float32(0.499))) * 0.25)
    return box & byte_spans(minimum(maximum(first, 0.0), 8.0), maximum(minimum(last, 7.0), -1.0))
