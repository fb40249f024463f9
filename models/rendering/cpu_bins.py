"""Which splats each tile has to draw, and in what order. Layout and legend: cpu_rows.py.

A key is depth bits << 32 | splat row. Positive floats order as their bits do, and rows ascend with the Gaussians,
so keys sort by depth with ties in the given order.
"""

from __future__ import annotations

import numpy as np

from models.rendering.cpu_rows import ROW, SPLAT_CORNER, SPLAT_DEPTH, SPLAT_PAIR, SPLAT_SPAN
from models.rendering.kernels import inline, kernel

MAX_BUCKETS = 1024
KEYS_PER_BUCKET = 4
MAX_INSERTION = 32
"""Up to so many keys, sorting by insertion is fastest."""


@kernel
def place_tiles(num_chunks, num_views, num_tiles, num_pairs, tile_counts, tile_starts):
    """Turns counts into positions, in place.

    `num_pairs[chunk, view]` becomes the number of the first pair, `tile_counts[chunk, view, tile]` the position of
    the first key, and `tile_starts[view, tile]` (int64, one longer) the bounds of each tile's keys.
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
    """Writes each splat's key into the list of every tile that it touches, and numbers its pairs for good.

    first_pairs, positions: `num_pairs` and `tile_counts` after `place_tiles`. Keys arrive in order.
    """
    for chunk in range(first_chunk, last_chunk):
        for view in range(num_views):
            here = chunk * num_views + view
            first_row = view * padded + chunk * chunk_size
            for row in range(first_row, first_row + num_visible[here]):
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


@inline
def split_by_depth(keys, buckets, start, stop, bounds):
    """Copies keys start..stop to the same place in `buckets`, nearer buckets first; returns their number.

    Bucket b is bounds[b]..bounds[b + 1]; within it keys stay in order. A tile is usually finished long before its
    last splat, so buckets are sorted one by one as they are reached.
    """
    nearest, farthest = depth_range(keys, start, stop)
    limit = min(max((stop - start) // KEYS_PER_BUCKET, 1), MAX_BUCKETS)
    shift = 0
    while (farthest - nearest) >> shift >= limit:
        shift += 1
    num_buckets = ((farthest - nearest) >> shift) + 1
    for b in range(num_buckets + 1):
        bounds[b] = 0
    for i in range(start, stop):
        bounds[((keys[i] >> 32) - nearest >> shift) + 1] += 1
    bounds[0] = start
    for b in range(num_buckets):
        bounds[b + 1] += bounds[b]
    for i in range(start, stop):
        b = (keys[i] >> 32) - nearest >> shift
        buckets[bounds[b]] = keys[i]
        bounds[b] += 1
    # Every bound has moved on to the end of its bucket.
    for b in range(num_buckets, 0, -1):
        bounds[b] = bounds[b - 1]
    bounds[0] = start
    return num_buckets


@inline
def sort_keys(keys, spare, start, stop):
    """Sorts keys start..stop in place, by depth alone: they arrive in order, and that is kept among equals.

    spare: scratch of the same length. Few keys by insertion, more by radix, lowest byte first.
    """
    if stop - start <= MAX_INSERTION:
        for i in range(start + 1, stop):
            key = keys[i]
            j = i - 1
            while j >= start and keys[j] > key:
                keys[j + 1] = keys[j]
                j -= 1
            keys[j + 1] = key
        return
    nearest, farthest = depth_range(keys, start, stop)
    ends = np.empty(257, np.int64)
    shift = 0
    while (farthest - nearest) >> shift > 0:
        for digit in range(257):
            ends[digit] = 0
        for i in range(start, stop):
            ends[((keys[i] >> 32) - nearest >> shift & 255) + 1] += 1
        for digit in range(256):
            ends[digit + 1] += ends[digit]
        for i in range(start, stop):
            digit = (keys[i] >> 32) - nearest >> shift & 255
            spare[start + ends[digit]] = keys[i]
            ends[digit] += 1
        for i in range(start, stop):
            keys[i] = spare[i]
        shift += 8


@inline
def depth_range(keys, start, stop):
    """Smallest and largest depth bits of keys start..stop."""
    nearest = farthest = keys[start] >> 32
    for i in range(start + 1, stop):
        depth = keys[i] >> 32
        nearest, farthest = min(nearest, depth), max(farthest, depth)
    return nearest, farthest
