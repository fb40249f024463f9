"""The memory layout that all kernels of the CPU rasteriser share.

Arrays are flat float32 unless said otherwise. What belongs together stands in rows of sixteen floats, one cache
line each, so that sixteen rows transpose into sixteen columns of lanes (see simd.py). Whole numbers in a row are
stored by their bits, and read through an int32 view of the same memory.

Legend
    n, v            Gaussians, views; "padded" is n rounded up to a multiple of sixteen
    chunk           consecutive Gaussians of fixed number, the unit of work for threads; nothing that is summed
                    depends on how many threads share them
    splat           what one view sees of one Gaussian
    pair            a splat together with one tile that it touches
    a, b, c         factors of the splat's inverse covariance: at an offset (dx, dy) from its centre
                        u = a dx + b dy,  v = c dy,  alpha = opacity * 2^-(u^2 + v^2)
                    Squares of a factor stay accurate for needle-like splats, where the usual
                    A dx^2 + 2 B dx dy + C dy^2 cancels.

Rows
    gaussian row    shape M = R(quat) diag(scale), by rows (0-8), mean (9-11), opacity (12)
    splat row       the SPLAT_ constants
    moment row      the MOMENT_ constants
    gradient row    of shape (0-8), mean (9-11), opacity (12), colour (13-15)
    camera          rotation (0-8), translation (9-11), fx, fy, cx, cy (12-15), smallest and largest x/z that the
                    Jacobian uses (16, 17), the same for y/z (18, 19)
"""

from __future__ import annotations

from models.rendering.kernels import inline
from models.rendering.simd import load, store, transpose

ROW = 16
CAMERA = 20

TILE = 32
"""Side of a tile [px]: 8 x 8 blocks of 4 x 4 pixels, numbered by rows."""
NUM_BLOCKS = 64

# exp(-sigma) = 2^-(u^2 + v^2): lengths in (u, v) are FACTOR_SCALE = sqrt(log2(e) / 2) times those in sigmas.
FACTOR_SCALE = 0.8493218002880191
SQUARED_FACTOR_SCALE = 0.7213475204444817

SPLAT_X, SPLAT_Y = 0, 1  # centre [px]
SPLAT_A, SPLAT_B, SPLAT_C = 2, 3, 4
SPLAT_OPACITY = 5  # after the compensation for antialiasing
SPLAT_COLOR = 6  # three columns
SPLAT_DEPTH = 9  # camera z
SPLAT_EXTENT_X, SPLAT_EXTENT_Y = 10, 11  # half the bounding box of alpha >= MIN_ALPHA [px]
SPLAT_CORNER = 12  # first tile touched: column | row << 16
SPLAT_SPAN = 13  # tiles touched: columns | rows << 16
SPLAT_PAIR = 14  # number of its first pair; the others follow by rows
SPLAT_GAUSSIAN = 15  # n

# Sums over a pair's pixels of d loss / d log(alpha) times these; then of weight times the pixel's gradient.
MOMENT_1, MOMENT_U, MOMENT_V, MOMENT_UU, MOMENT_UV, MOMENT_VV = 0, 1, 2, 3, 4, 5
MOMENT_COLOR = 6  # three columns
MOMENT_DEPTH = 9


@inline
def load_rows(array, start):
    """Sixteen consecutive rows, from element `start` on, as a tuple of sixteen columns."""
    return transpose(
        (
            load(array, start), load(array, start + 16), load(array, start + 32),
            load(array, start + 48), load(array, start + 64), load(array, start + 80),
            load(array, start + 96), load(array, start + 112), load(array, start + 128),
            load(array, start + 144), load(array, start + 160), load(array, start + 176),
            load(array, start + 192), load(array, start + 208), load(array, start + 224),
            load(array, start + 240),
        )
    )  # fmt: skip


@inline
def store_rows(array, start, columns):
    """The inverse of `load_rows`."""
    rows = transpose(columns)
    for i in range(16):
        store(array, start + 16 * i, rows[i])
