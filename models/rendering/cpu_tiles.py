"""Drawing splats tile by tile, and the way back: the CPU rasteriser's inner part.

A tile is 32 x 32 pixels: 8 x 8 blocks of 4 x 4 pixels, which are the sixteen lanes of simd.py. A 64-bit mask
has one bit a block (row 0 in the lowest byte), so "which blocks can this splat reach, and of those, which
still let light through" is one AND.

Legend
    key             depth bits << 32 | splat row: sorts by depth, then by order of the Gaussians
    T               transmittance: the share of light that passes all splats so far
    block state     planes of sixteen floats, one a pixel; see the STATE_ and GRAD_ constants
    factors         the exponent is -(u^2 + v^2) with u = a dx + b dy, v = c dy (see cpu_project.py)
"""

from __future__ import annotations

import numpy as np

from models.rendering.cpu_project import (
    MIN_ALPHA,
    ROW,
    SPLAT_A,
    SPLAT_B,
    SPLAT_C,
    SPLAT_COLOR,
    SPLAT_CORNER,
    SPLAT_DEPTH,
    SPLAT_EXTENT_X,
    SPLAT_EXTENT_Y,
    SPLAT_OPACITY,
    SPLAT_PAIR,
    SPLAT_SPAN,
    SPLAT_X,
    SPLAT_Y,
    TILE,
    inline,
    kernel,
)
from models.rendering.simd import (
    any_lane,
    bits_below,
    bits_of,
    byte_spans,
    ceil,
    count_bits,
    exp2,
    floor,
    fma,
    lane_numbers,
    load,
    lowest_bit,
    mask_bits,
    maximum,
    minimum,
    prefetch,
    select,
    splat,
    sqrt,
    store,
    sum_each,
)

MAX_ALPHA = 0.999
"""gsplat 1.5.3; 1.6 has 0.99."""
MIN_TRANSMITTANCE = 1e-4
"""A splat that would take T to this or below is left out, and the pixel is finished."""

NUM_BLOCKS = 64
NEVER = 2**31 - 1

# Planes of a block's state, forward. A finished pixel keeps its transmittance with a minus sign.
STATE_T, STATE_COLOR, STATE_DEPTH = 0, 16, 64
STATE_SIZE = 80
# Backward: T behind the splat at hand, d loss of all that lies behind, gradients of the pixel's colour and
# depth, and the position in the tile's list at which the pixel was finished.
GRAD_T, GRAD_BEHIND, GRAD_COLOR, GRAD_DEPTH, GRAD_STOP = 0, 16, 32, 80, 96
GRAD_SIZE = 112

SMALL_BUCKET = 32
MAX_BUCKETS = 1024
PREFETCH = 6


# --- which splats touch which tile ---------------------------------------------------------------


@kernel
def place_tiles(num_chunks, num_views, num_tiles, num_pairs, tile_counts, tile_starts):
    """Turns counts into positions, in place, and returns the number of pairs.

    `num_pairs[chunk, view]` becomes the number of the first pair, `tile_counts[chunk, view, tile]` the position of
    the first key, and `tile_starts[view, tile]` (one longer) the bounds of each tile's keys.
    """
    position = 0
    for view in range(num_views):
        for tile in range(num_tiles):
            tile_starts[view * num_tiles + tile] = position
            for chunk in range(num_chunks):
                at = (chunk * num_views + view) * num_tiles + tile
                count = tile_counts[at]
                tile_counts[at] = position
                position += count
    tile_starts[num_views * num_tiles] = position
    first_pair = 0
    for at in range(num_chunks * num_views):
        count = num_pairs[at]
        num_pairs[at] = first_pair
        first_pair += count
    return position


@kernel
def list_splats(
    first_chunk,
    last_chunk,
    chunk_size,
    num_views,
    padded,
    tiles_x,
    num_tiles,
    num_visible,
    first_pairs,
    positions,
    splat_bits,
    keys,
):
    """Writes every splat's key into the list of every tile that it touches, and numbers its pairs for good."""
    for chunk in range(first_chunk, last_chunk):
        for view in range(num_views):
            here = chunk * num_views + view
            first = view * padded + chunk * chunk_size
            for row in range(first, first + num_visible[here]):
                at = row * ROW
                splat_bits[at + SPLAT_PAIR] += first_pairs[here]
                key = np.int64(splat_bits[at + SPLAT_DEPTH]) << 32 | row
                corner, span = splat_bits[at + SPLAT_CORNER], splat_bits[at + SPLAT_SPAN]
                tile = here * num_tiles + (corner >> 16) * tiles_x + (corner & 0xFFFF)
                for _ in range(span >> 16):
                    for i in range(span & 0xFFFF):
                        keys[positions[tile + i]] = key
                        positions[tile + i] += 1
                    tile += tiles_x


# --- sorting, only as far as a tile is looked at -------------------------------------------------


@inline
def bucket_by_depth(keys, buckets, start, stop, bounds):
    """Copies a tile's keys to `buckets`, split by depth; returns the number of buckets.

    Keys stay in order within a bucket. `bounds` gets the buckets' first positions, and `stop`.
    """
    lowest, highest = keys[start] >> 32, keys[start] >> 32
    for i in range(start, stop):
        depth = keys[i] >> 32
        lowest, highest = min(lowest, depth), max(highest, depth)
    shift = 0
    limit = min(max((stop - start) // 4, 1), MAX_BUCKETS)
    while (highest - lowest) >> shift >= limit:
        shift += 1
    count = ((highest - lowest) >> shift) + 1
    for b in range(count + 1):
        bounds[b] = 0
    for i in range(start, stop):
        bounds[(((keys[i] >> 32) - lowest) >> shift) + 1] += 1
    bounds[0] = start
    for b in range(count):
        bounds[b + 1] += bounds[b]
    for i in range(start, stop):
        b = ((keys[i] >> 32) - lowest) >> shift
        buckets[bounds[b]] = keys[i]
        bounds[b] += 1
    for b in range(count, 0, -1):
        bounds[b] = bounds[b - 1]
    bounds[0] = start
    return count


@inline
def sort_bucket(buckets, spare, start, stop):
    """Sorts keys in place: by insertion where they are few, else by radix, least significant byte first.

    Keys arrive in order of the Gaussians and both ways are stable, so depth alone decides. `spare` is scratch.
    """
    if stop - start <= SMALL_BUCKET:
        for i in range(start + 1, stop):
            key = buckets[i]
            j = i - 1
            while j >= start and buckets[j] > key:
                buckets[j + 1] = buckets[j]
                j -= 1
            buckets[j + 1] = key
        return
    lowest, highest = buckets[start] >> 32, buckets[start] >> 32
    for i in range(start, stop):
        depth = buckets[i] >> 32
        lowest, highest = min(lowest, depth), max(highest, depth)
    counts = np.empty(257, np.int64)
    shift = 0
    while (highest - lowest) >> shift > 0:
        counts[:] = 0
        for i in range(start, stop):
            counts[((((buckets[i] >> 32) - lowest) >> shift) & 255) + 1] += 1
        for b in range(256):
            counts[b + 1] += counts[b]
        for i in range(start, stop):
            b = (((buckets[i] >> 32) - lowest) >> shift) & 255
            spare[start + counts[b]] = buckets[i]
            counts[b] += 1
        for i in range(start, stop):
            buckets[i] = spare[i]
        shift += 8


# --- which blocks a splat can reach --------------------------------------------------------------


@inline
def block_range(center, extent):
    """First and last of the tile's 8 block columns (or rows) with a pixel centre within `extent`."""
    first = max(np.int64(np.ceil(max((center - extent - np.float32(3.5)) * np.float32(0.25), np.float32(0)))), 0)
    last = np.int64(np.floor(min((center + extent - np.float32(0.5)) * np.float32(0.25), np.float32(7))))
    return first, last


@inline
def reachable_blocks(x, y, a, b, c, extent_x, extent_y):
    """Mask of the blocks where alpha may reach its threshold; centre relative to the tile's corner.

    The bounding box, cut down to the ellipse where the box is large enough for that to pay.
    """
    first_column, last_column = block_range(x, extent_x)
    first_row, last_row = block_range(y, extent_y)
    if first_column > last_column or first_row > last_row or last_column < 0 or last_row < 0:
        return np.uint64(0)
    one = np.uint64(1)
    every = np.uint64(0xFFFFFFFFFFFFFFFF)
    columns = (one << np.uint64(last_column + 1)) - (one << np.uint64(first_column))
    rows = (every >> np.uint64(56 - 8 * last_row)) & (every << np.uint64(8 * first_row))
    box = (columns * np.uint64(0x0101010101010101)) & rows
    if (last_column - first_column) * (last_row - first_row) < 6:
        return box
    # Lane i is block row i: its pixel centres' dy spans [low, low + 3]. The ellipse's right edge over dy,
    # slope dy + sqrt(extent_y^2 - dy^2) c / a, peaks at dy = peak; its left edge at -peak.
    inverse_a = np.float32(1) / a
    slope = -b * inverse_a
    peak = slope * extent_y * extent_y / extent_x
    low = fma(lane_numbers(), 4.0, np.float32(0.5) - y)
    high = low + 3.0
    at_right = minimum(maximum(splat(peak), low), high)
    at_left = minimum(maximum(splat(-peak), low), high)
    square, steep = extent_y * extent_y, c * inverse_a
    half_right = sqrt(maximum(square - at_right * at_right, 0.0)) * steep
    half_left = sqrt(maximum(square - at_left * at_left, 0.0)) * steep
    right = fma(at_right, slope, half_right) + (x + np.float32(1e-3))
    left = fma(at_left, slope, -half_left) + (x - np.float32(1e-3))
    first = minimum(maximum(ceil((left - 3.5) * 0.25), 0.0), 8.0)
    last = maximum(minimum(floor((right - 0.5) * 0.25), 7.0), -1.0)
    return box & byte_spans(first, last)


@inline
def pixel_centers():
    """x of a block's sixteen pixels for each of the 8 block columns, and y for each of the 8 block rows."""
    centers_x, centers_y = np.empty(8 * 16, np.float32), np.empty(8 * 16, np.float32)
    for block in range(8):
        for lane in range(16):
            centers_x[block * 16 + lane] = block * 4 + lane % 4 + 0.5
            centers_y[block * 16 + lane] = block * 4 + lane // 4 + 0.5
    return centers_x, centers_y


@inline
def falloff(factor_a, factor_b, factor_c, dx, dy):
    """u, v and 2^-(u^2 + v^2)."""
    u = fma(factor_a, dx, factor_b * dy)
    v = factor_c * dy
    return u, v, exp2(-fma(u, u, v * v))


# --- forward -------------------------------------------------------------------------------------


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
    buckets,
    splats,
    frames,
    depth,
    transmittance,
    keep,
    stops,
    reached,
    num_drawn,
):
    """Renders tiles (numbered through all views): colour `[v 3 h w]`, sum of weight * z and T `[v h w]`.

    With `keep`, also what the way back needs: `stops` `[v h w]` int32, where in its tile's list each pixel was
    finished; `reached` `[pair]` uint64, per key the blocks that it changed; `num_drawn` `[v, tile]`, how many keys
    were looked at before the whole tile was finished. `buckets` holds the sorted keys up to there; `keys` is
    scratch afterwards.
    """
    state = np.empty(NUM_BLOCKS * STATE_SIZE, np.float32)
    stop_state = np.empty(NUM_BLOCKS * 16, np.int32)
    bounds = np.empty(MAX_BUCKETS + 2, np.int64)
    centers_x, centers_y = pixel_centers()
    one = np.uint64(1)

    for tile in range(first_tile, last_tile):
        view, in_view = tile // num_tiles, tile % num_tiles
        tile_x, tile_y = in_view % tiles_x * TILE, in_view // tiles_x * TILE
        alive = np.uint64(0)
        for block in range(NUM_BLOCKS):
            inside = (load(centers_x, block % 8 * 16) < width - tile_x) & (
                load(centers_y, block // 8 * 16) < height - tile_y
            )
            at = block * STATE_SIZE
            store(state, at + STATE_T, select(inside, 1.0, -1.0))
            for plane in range(16, STATE_SIZE, 16):
                store(state, at + plane, splat(0.0))
            if any_lane(inside):
                alive |= one << np.uint64(block)
        if keep:
            stop_state[:] = NEVER
        start, stop = tile_starts[tile], tile_starts[tile + 1]
        position = start
        if start < stop:
            num_buckets = bucket_by_depth(keys, buckets, start, stop, bounds)
            for bucket in range(num_buckets):
                if alive == 0:
                    break
                sort_bucket(buckets, keys, bounds[bucket], bounds[bucket + 1])
                while position < bounds[bucket + 1] and alive != 0:
                    row = (buckets[position] & 0xFFFFFFFF) * ROW
                    ahead = min(position + PREFETCH, stop - 1)
                    prefetch(splats, (buckets[ahead] & 0xFFFFFFFF) * ROW)
                    x, y = splats[row + SPLAT_X] - tile_x, splats[row + SPLAT_Y] - tile_y
                    x, y = np.float32(x), np.float32(y)
                    a, b, c = splats[row + SPLAT_A], splats[row + SPLAT_B], splats[row + SPLAT_C]
                    blocks = alive & reachable_blocks(
                        x, y, a, b, c, splats[row + SPLAT_EXTENT_X], splats[row + SPLAT_EXTENT_Y]
                    )
                    changed = np.uint64(0)
                    factor_a, factor_b, factor_c = splat(a), splat(b), splat(c)
                    opacity = splat(splats[row + SPLAT_OPACITY])
                    red = splat(splats[row + SPLAT_COLOR])
                    green = splat(splats[row + SPLAT_COLOR + 1])
                    blue = splat(splats[row + SPLAT_COLOR + 2])
                    z = splat(splats[row + SPLAT_DEPTH])
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
                        hit = alpha >= MIN_ALPHA
                        passes = hit & (after > MIN_TRANSMITTANCE)
                        weight = select(passes, before * alpha, 0.0)
                        store(state, at + STATE_T, select(passes, after, before))
                        for k in range(3):
                            pass
                        store(state, at + 16, fma(weight, red, load(state, at + 16)))
                        store(state, at + 32, fma(weight, green, load(state, at + 32)))
                        store(state, at + 48, fma(weight, blue, load(state, at + 48)))
                        store(state, at + STATE_DEPTH, fma(weight, z, load(state, at + STATE_DEPTH)))
                        if any_lane(passes):
                            changed |= one << block
                        finished = hit & (before > 0.0) & (after <= MIN_TRANSMITTANCE)
                        if any_lane(finished):
                            left = select(finished, -before, load(state, at + STATE_T))
                            store(state, at + STATE_T, left)
                            if keep:
                                stop_plane = select(
                                    finished,
                                    bits_of(np.int32(position - start)),
                                    load(stop_state, np.int64(block) * 16),
                                )
                                store(stop_state, np.int64(block) * 16, stop_plane)
                            if not any_lane(left > 0.0):
                                alive &= ~(one << block)
                    if keep:
                        reached[position] = changed
                    position += 1
        num_drawn[tile] = position - start

        plane_size = width * height
        for row_in_tile in range(min(TILE, height - tile_y)):
            for column_in_tile in range(min(TILE, width - tile_x)):
                block = row_in_tile // 4 * 8 + column_in_tile // 4
                lane = row_in_tile % 4 * 4 + column_in_tile % 4
                at = block * STATE_SIZE + lane
                pixel = (tile_y + row_in_tile) * width + tile_x + column_in_tile
                to = view * plane_size + pixel
                transmittance[to] = abs(state[at])
                depth[to] = state[at + STATE_DEPTH]
                for k in range(3):
                    frames[(view * 3 + k) * plane_size + pixel] = state[at + STATE_COLOR + 16 * k]
                if keep:
                    stops[to] = stop_state[block * 16 + lane]


# --- backward ------------------------------------------------------------------------------------


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
    """Fills a moment row (see cpu_project.py) for every pair that changed a pixel, and marks it in `touched`.

    Goes back to front, so that T follows from the final T by division, and what lies behind is summed up rather
    than subtracted. `touched` is zero on entry.
    """
    state = np.empty(NUM_BLOCKS * GRAD_SIZE, np.float32)
    state_bits = state.view(np.int32)
    centers_x, centers_y = pixel_centers()
    one = np.uint64(1)
    plane_size = width * height

    for tile in range(first_tile, last_tile):
        view, in_view = tile // num_tiles, tile % num_tiles
        tile_column, tile_row = in_view % tiles_x, in_view // tiles_x
        tile_x, tile_y = tile_column * TILE, tile_row * TILE
        if num_drawn[tile] == 0:
            continue
        state[:] = 0.0
        for row_in_tile in range(min(TILE, height - tile_y)):
            for column_in_tile in range(min(TILE, width - tile_x)):
                block = row_in_tile // 4 * 8 + column_in_tile // 4
                at = block * GRAD_SIZE + row_in_tile % 4 * 4 + column_in_tile % 4
                pixel = (tile_y + row_in_tile) * width + tile_x + column_in_tile
                source = view * plane_size + pixel
                state[at] = transmittance[source]
                state[at + GRAD_BEHIND] = transmittance[source] * grad_transmittance[source]
                state[at + GRAD_DEPTH] = grad_depth[source]
                state_bits[at + GRAD_STOP] = stops[source]
                for k in range(3):
                    state[at + GRAD_COLOR + 16 * k] = grad_frames[
                        (view * 3 + k) * plane_size + pixel
                    ]

        start = tile_starts[tile]
        for position in range(start + num_drawn[tile] - 1, start - 1, -1):
            blocks = reached[position]
            if blocks == 0:
                continue
            row = (sorted_keys[position] & 0xFFFFFFFF) * ROW
            ahead = max(position - PREFETCH, start)
            prefetch(splats, (sorted_keys[ahead] & 0xFFFFFFFF) * ROW)
            x = np.float32(splats[row + SPLAT_X] - tile_x)
            y = np.float32(splats[row + SPLAT_Y] - tile_y)
            factor_a, factor_b = splat(splats[row + SPLAT_A]), splat(splats[row + SPLAT_B])
            factor_c = splat(splats[row + SPLAT_C])
            opacity = splat(splats[row + SPLAT_OPACITY])
            red = splat(splats[row + SPLAT_COLOR])
            green = splat(splats[row + SPLAT_COLOR + 1])
            blue = splat(splats[row + SPLAT_COLOR + 2])
            z = splat(splats[row + SPLAT_DEPTH])
            in_list = np.int32(position - start)
            sum_1, sum_u, sum_v = splat(0.0), splat(0.0), splat(0.0)
            sum_uu, sum_uv, sum_vv = splat(0.0), splat(0.0), splat(0.0)
            sum_red, sum_green, sum_blue = splat(0.0), splat(0.0), splat(0.0)
            sum_depth = splat(0.0)
            while blocks:
                block = lowest_bit(blocks)
                blocks &= blocks - one
                at = np.int64(block) * GRAD_SIZE
                dx = load(centers_x, np.int64(block & np.uint64(7)) * 16) - x
                dy = load(centers_y, np.int64(block >> np.uint64(3)) * 16) - y
                u, v, fall = falloff(factor_a, factor_b, factor_c, dx, dy)
                raw = opacity * fall
                alpha = minimum(raw, MAX_ALPHA)
                drawn = (alpha >= MIN_ALPHA) & bits_below(in_list, load(state, at + GRAD_STOP))
                alpha = select(drawn, alpha, 0.0)
                inverse = 1.0 / (1.0 - alpha)
                before = load(state, at + GRAD_T) * inverse
                store(state, at + GRAD_T, before)
                weight = alpha * before
                grad_red, grad_green = load(state, at + 32), load(state, at + 48)
                grad_blue, grad_z = load(state, at + 64), load(state, at + GRAD_DEPTH)
                own = fma(grad_red, red, fma(grad_green, green, fma(grad_blue, blue, grad_z * z)))
                own = own * weight
                behind = load(state, at + GRAD_BEHIND)
                # d loss / d log(alpha); the clamp at MAX_ALPHA lets none through.
                grad_log = fma(-(behind * alpha), inverse, own)
                grad_log = select(raw <= MAX_ALPHA, grad_log, 0.0)
                store(state, at + GRAD_BEHIND, behind + own)
                sum_red, sum_green = fma(weight, grad_red, sum_red), fma(weight, grad_green, sum_green)
                sum_blue, sum_depth = fma(weight, grad_blue, sum_blue), fma(weight, grad_z, sum_depth)
                grad_u, grad_v = grad_log * u, grad_log * v
                sum_1, sum_u, sum_v = sum_1 + grad_log, sum_u + grad_u, sum_v + grad_v
                sum_uu, sum_uv = fma(grad_u, u, sum_uu), fma(grad_u, v, sum_uv)
                sum_vv = fma(grad_v, v, sum_vv)
            corner, span = splat_bits[row + SPLAT_CORNER], splat_bits[row + SPLAT_SPAN]
            pair = (
                np.int64(splat_bits[row + SPLAT_PAIR])
                + (tile_row - (corner >> 16)) * (span & 0xFFFF)
                + (tile_column - (corner & 0xFFFF))
            )
            touched[pair] = 1
            store(
                moments,
                pair * ROW,
                sum_each(
                    (
                        sum_1, sum_u, sum_v, sum_uu, sum_uv, sum_vv,
                        sum_red, sum_green, sum_blue, sum_depth,
                    )
                ),
            )  # fmt: skip
