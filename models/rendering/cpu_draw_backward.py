"""Tiles on the way back, from gradients of pixels to moments of splats. Layout and legend: cpu_rows.py.

Splats are visited back to front: a pixel's transmittance before each follows from that after it by division, and
what lies behind is summed up, not subtracted, so small gradients stay accurate.
"""

from __future__ import annotations

import numpy as np

from models.rendering.cpu_blocks import falloff, pixel_centers
from models.rendering.cpu_draw import PREFETCH
from models.rendering.cpu_rows import (
    NUM_BLOCKS,
    ROW,
    SPLAT_A,
    SPLAT_B,
    SPLAT_C,
    SPLAT_COLOR,
    SPLAT_CORNER,
    SPLAT_DEPTH,
    SPLAT_OPACITY,
    SPLAT_PAIR,
    SPLAT_SPAN,
    SPLAT_X,
    SPLAT_Y,
    TILE,
)
from models.rendering.kernels import inline, kernel
from models.rendering.settings import MAX_ALPHA, MIN_ALPHA
from models.rendering.simd import (
    bits_below,
    fma,
    load,
    lowest_bit,
    minimum,
    prefetch,
    select,
    splat,
    store,
    sum_each,
)

# Planes of a block's state, sixteen pixels each: the transmittance behind the splats visited next, the sum over
# those already visited of weight * (colour . gradient), the pixel's gradients, and its stop.
STATE_T, STATE_BEHIND, STATE_COLOR, STATE_DEPTH, STATE_STOP, STATE_SIZE = 0, 16, 32, 80, 96, 112


@kernel
def draw_tiles_backward(
    first_tile,
    last_tile,
    width,
    height,
    tiles_x,
    num_tiles,
    tile_starts,
    sorted_keys,
    splats,
    splat_bits,
    transmittance,
    stops,
    reached,
    num_drawn,
    grad_frames,
    grad_depth,
    grad_transmittance,
    moments,
    touched,
):
    """Writes a moment row for every pair that changed a pixel, and sets its `touched` (uint8, zero on entry).

    All other arrays are as `draw_tiles` left them, and the gradients of its three results.
    """
    state = np.empty(NUM_BLOCKS * STATE_SIZE, np.float32)
    state_bits = state.view(np.int32)
    centers_x, centers_y = pixel_centers()
    for tile in range(first_tile, last_tile):
        if num_drawn[tile] == 0:
            continue
        view, in_view = tile // num_tiles, tile % num_tiles
        tile_column, tile_line = in_view % tiles_x, in_view // tiles_x
        tile_x, tile_y = tile_column * TILE, tile_line * TILE
        for i in range(NUM_BLOCKS * STATE_SIZE):
            state[i] = 0.0
        for line in range(min(TILE, height - tile_y)):
            for column in range(min(TILE, width - tile_x)):
                block = line // 4 * 8 + column // 4
                at = block * STATE_SIZE + line % 4 * 4 + column % 4
                pixel = (tile_y + line) * width + tile_x + column
                source = view * width * height + pixel
                state[at + STATE_T] = transmittance[source]
                state[at + STATE_BEHIND] = transmittance[source] * grad_transmittance[source]
                state[at + STATE_DEPTH] = grad_depth[source]
                state_bits[at + STATE_STOP] = stops[source]
                for k in range(3):
                    state[at + STATE_COLOR + 16 * k] = grad_frames[
                        (view * 3 + k) * width * height + pixel
                    ]

        start = tile_starts[tile]
        for position in range(start + num_drawn[tile] - 1, start - 1, -1):
            blocks = reached[position]
            if blocks == 0:
                continue
            ahead = sorted_keys[max(position - PREFETCH, start)]
            prefetch(splats, (ahead & 0xFFFFFFFF) * ROW)
            row = (sorted_keys[position] & 0xFFFFFFFF) * ROW
            sums = splat_moments(
                splats,
                row,
                splats[row + SPLAT_X] - np.float32(tile_x),
                splats[row + SPLAT_Y] - np.float32(tile_y),
                blocks,
                centers_x,
                centers_y,
                state,
                np.int32(position - start),
            )
            corner, span = splat_bits[row + SPLAT_CORNER], splat_bits[row + SPLAT_SPAN]
            tile_in_span = (tile_line - (corner >> 16)) * (span & 0xFFFF) + (
                tile_column - (corner & 0xFFFF)
            )
            pair = splat_bits[row + SPLAT_PAIR] + tile_in_span
            store(moments, pair * ROW, sums)
            touched[pair] = 1


@inline
def splat_moments(splats, row, x, y, blocks, centers_x, centers_y, state, position):
    """The moment row of one splat on `blocks`; steps their state from behind it to before it."""
    one = np.uint64(1)
    factor_a, factor_b = splat(splats[row + SPLAT_A]), splat(splats[row + SPLAT_B])
    factor_c, opacity = splat(splats[row + SPLAT_C]), splat(splats[row + SPLAT_OPACITY])
    red, green = splat(splats[row + SPLAT_COLOR]), splat(splats[row + SPLAT_COLOR + 1])
    blue, z = splat(splats[row + SPLAT_COLOR + 2]), splat(splats[row + SPLAT_DEPTH])
    sum_1, sum_u, sum_v = splat(0.0), splat(0.0), splat(0.0)
    sum_uu, sum_uv, sum_vv = splat(0.0), splat(0.0), splat(0.0)
    sum_red, sum_green, sum_blue = splat(0.0), splat(0.0), splat(0.0)
    sum_z = splat(0.0)
    while blocks:
        block = lowest_bit(blocks)
        blocks &= blocks - one
        at = np.int64(block) * STATE_SIZE
        dx = load(centers_x, np.int64(block & np.uint64(7)) * 16) - x
        dy = load(centers_y, np.int64(block >> np.uint64(3)) * 16) - y
        u, v, fall = falloff(factor_a, factor_b, factor_c, dx, dy)
        unclamped = opacity * fall
        alpha = minimum(unclamped, MAX_ALPHA)
        drawn = (alpha >= MIN_ALPHA) & bits_below(position, load(state, at + STATE_STOP))
        alpha = select(drawn, alpha, 0.0)
        inverse = 1.0 / (1.0 - alpha)
        before = load(state, at + STATE_T) * inverse
        store(state, at + STATE_T, before)
        weight = alpha * before

        grad_red, grad_green = load(state, at + STATE_COLOR), load(state, at + STATE_COLOR + 16)
        grad_blue, grad_z = load(state, at + STATE_COLOR + 32), load(state, at + STATE_DEPTH)
        value = fma(grad_red, red, fma(grad_green, green, fma(grad_blue, blue, grad_z * z)))
        own = weight * value
        behind = load(state, at + STATE_BEHIND)
        store(state, at + STATE_BEHIND, behind + own)
        # d loss / d log(alpha); nothing passes the clamp at MAX_ALPHA.
        grad_log = fma(-(behind * alpha), inverse, own)
        grad_log = select(unclamped <= MAX_ALPHA, grad_log, 0.0)

        sum_red, sum_green = fma(weight, grad_red, sum_red), fma(weight, grad_green, sum_green)
        sum_blue, sum_z = fma(weight, grad_blue, sum_blue), fma(weight, grad_z, sum_z)
        grad_u, grad_v = grad_log * u, grad_log * v
        sum_1, sum_u, sum_v = sum_1 + grad_log, sum_u + grad_u, sum_v + grad_v
        sum_uu, sum_uv = fma(grad_u, u, sum_uu), fma(grad_u, v, sum_uv)
        sum_vv = fma(grad_v, v, sum_vv)
    return sum_each(
        (sum_1, sum_u, sum_v, sum_uu, sum_uv, sum_vv, sum_red, sum_green, sum_blue, sum_z)
    )
