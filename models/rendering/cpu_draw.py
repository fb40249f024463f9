"""Drawing tiles, front to back. Layout and legend: cpu_rows.py."""

from __future__ import annotations

import numpy as np

from models.rendering.cpu_bins import MAX_BUCKETS, sort_keys, split_by_depth
from models.rendering.cpu_blocks import falloff, pixel_centers, reachable_blocks
from models.rendering.cpu_rows import (
    NUM_BLOCKS,
    ROW,
    SPLAT_A,
    SPLAT_B,
    SPLAT_C,
    SPLAT_COLOR,
    SPLAT_DEPTH,
    SPLAT_EXTENT_X,
    SPLAT_EXTENT_Y,
    SPLAT_OPACITY,
    SPLAT_X,
    SPLAT_Y,
    TILE,
)
from models.rendering.kernels import inline, kernel
from models.rendering.settings import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE
from models.rendering.simd import (
    any_lane,
    bits_of,
    fma,
    load,
    lowest_bit,
    minimum,
    prefetch,
    select,
    splat,
    store,
)

# Planes of a block's state, sixteen pixels each. A finished pixel keeps its transmittance with a minus sign.
STATE_T, STATE_COLOR, STATE_DEPTH, STATE_SIZE = 0, 16, 64, 80

NEVER = 2**31 - 1
PREFETCH = 6
"""How many splats ahead memory is asked for the next."""


@kernel
def draw_tiles(
    first_tile,
    last_tile,
    width,
    height,
    tiles_x,
    num_tiles,
    tile_starts,
    keys,
    sorted_keys,
    splats,
    frames,
    depth,
    transmittance,
    keep,
    stops,
    reached,
    num_drawn,
):
    """Draws tiles, numbered through all views: colour `[v 3 h w]`, sum of weight * z and transmittance `[v h w]`.

    sorted_keys: gets the keys in the order of drawing, as far as they were drawn. `keys` is scratch afterwards.

    With `keep`, also what the way back needs. `num_drawn[view, tile]` (int64): how many splats were drawn before
    all pixels were finished. `reached` (uint64, one a key): the blocks that each of them changed. `stops[v h w]`
    (int32): before which of the tile's splats a pixel was finished.
    """
    state = np.empty(NUM_BLOCKS * STATE_SIZE, np.float32)
    stop_state = np.empty(NUM_BLOCKS * 16, np.int32)
    bounds = np.empty(MAX_BUCKETS + 1, np.int64)
    centers_x, centers_y = pixel_centers()
    for tile in range(first_tile, last_tile):
        view, in_view = tile // num_tiles, tile % num_tiles
        tile_x, tile_y = in_view % tiles_x * TILE, in_view // tiles_x * TILE
        alive = clear_tile(width - tile_x, height - tile_y, centers_x, centers_y, state, stop_state)
        start, stop = tile_starts[tile], tile_starts[tile + 1]
        position = start
        num_buckets = 0
        if start < stop:
            num_buckets = split_by_depth(keys, sorted_keys, start, stop, bounds)
        for bucket in range(num_buckets):
            if alive == 0:
                break
            sort_keys(sorted_keys, keys, bounds[bucket], bounds[bucket + 1])
            while position < bounds[bucket + 1] and alive != 0:
                ahead = sorted_keys[min(position + PREFETCH, stop - 1)]
                prefetch(splats, (ahead & 0xFFFFFFFF) * ROW)
                row = (sorted_keys[position] & 0xFFFFFFFF) * ROW
                x = splats[row + SPLAT_X] - np.float32(tile_x)
                y = splats[row + SPLAT_Y] - np.float32(tile_y)
                blocks = alive & reachable_blocks(
                    x,
                    y,
                    splats[row + SPLAT_A],
                    splats[row + SPLAT_B],
                    splats[row + SPLAT_C],
                    splats[row + SPLAT_EXTENT_X],
                    splats[row + SPLAT_EXTENT_Y],
                )
                changed, finished = draw_splat(
                    splats, row, x, y, blocks, centers_x, centers_y,
                    state, stop_state, np.int32(position - start),
                )  # fmt: skip
                alive &= ~finished
                if keep:
                    reached[position] = changed
                position += 1
        num_drawn[tile] = position - start
        for line in range(min(TILE, height - tile_y)):
            for column in range(min(TILE, width - tile_x)):
                block = line // 4 * 8 + column // 4
                lane = line % 4 * 4 + column % 4
                at = block * STATE_SIZE + lane
                pixel = (tile_y + line) * width + tile_x + column
                to = view * width * height + pixel
                transmittance[to] = abs(state[at + STATE_T])
                depth[to] = state[at + STATE_DEPTH]
                for k in range(3):
                    frames[(view * 3 + k) * width * height + pixel] = state[
                        at + STATE_COLOR + 16 * k
                    ]
                if keep:
                    stops[to] = stop_state[block * 16 + lane]


@inline
def clear_tile(width, height, centers_x, centers_y, state, stop_state):
    """Starts a tile of which `width` x `height` pixels lie in the image; returns the blocks that hold any."""
    alive = np.uint64(0)
    for block in range(NUM_BLOCKS):
        inside = (load(centers_x, block % 8 * 16) < width) & (
            load(centers_y, block // 8 * 16) < height
        )
        store(state, block * STATE_SIZE + STATE_T, select(inside, 1.0, -1.0))
        for plane in range(STATE_COLOR, STATE_SIZE, 16):
            store(state, block * STATE_SIZE + plane, splat(0.0))
        if any_lane(inside):
            alive |= np.uint64(1) << np.uint64(block)
    for i in range(NUM_BLOCKS * 16):
        stop_state[i] = NEVER
    return alive


@inline
def draw_splat(splats, row, x, y, blocks, centers_x, centers_y, state, stop_state, position):
    """Draws one splat on `blocks`; returns the blocks that it changed, and those with no pixel left to draw on."""
    one = np.uint64(1)
    changed, finished = np.uint64(0), np.uint64(0)
    factor_a, factor_b = splat(splats[row + SPLAT_A]), splat(splats[row + SPLAT_B])
    factor_c, opacity = splat(splats[row + SPLAT_C]), splat(splats[row + SPLAT_OPACITY])
    red, green = splat(splats[row + SPLAT_COLOR]), splat(splats[row + SPLAT_COLOR + 1])
    blue, z = splat(splats[row + SPLAT_COLOR + 2]), splat(splats[row + SPLAT_DEPTH])
    while blocks:
        block = lowest_bit(blocks)
        blocks &= blocks - one
        at = np.int64(block) * STATE_SIZE
        dx = load(centers_x, np.int64(block & np.uint64(7)) * 16) - x
        dy = load(centers_y, np.int64(block >> np.uint64(3)) * 16) - y
        _, _, fall = falloff(factor_a, factor_b, factor_c, dx, dy)
        alpha = minimum(opacity * fall, MAX_ALPHA)
        before = load(state, at + STATE_T)
        after = fma(-before, alpha, before)
        # A finished pixel has a negative `after`, so it passes nothing either.
        hit = alpha >= MIN_ALPHA
        drawn = hit & (after > MIN_TRANSMITTANCE)
        stopped = hit & (after <= MIN_TRANSMITTANCE) & (before > 0.0)
        weight = select(drawn, before * alpha, 0.0)
        store(state, at + STATE_T, select(drawn, after, before))
        at_color = at + STATE_COLOR
        store(state, at_color, fma(weight, red, load(state, at_color)))
        store(state, at_color + 16, fma(weight, green, load(state, at_color + 16)))
        store(state, at_color + 32, fma(weight, blue, load(state, at_color + 32)))
        store(state, at + STATE_DEPTH, fma(weight, z, load(state, at + STATE_DEPTH)))
        if any_lane(drawn):
            changed |= one << block
        if any_lane(stopped):
            left = select(stopped, -before, load(state, at + STATE_T))
            store(state, at + STATE_T, left)
            at_stop = np.int64(block) * 16
            store(
                stop_state, at_stop, select(stopped, bits_of(position), load(stop_state, at_stop))
            )
            if not any_lane(left > 0.0):
                finished |= one << block
    return changed, finished
