"""From Gaussians in the world to splats in the images, sixteen at a time.

Layout and legend: cpu_rows.py. Here besides: x y z is a centre in camera axes, W the camera's rotation, J the
Jacobian of the projection, T = J W (2x3), P = T M (2x3), so that the 2-D covariance is P P^T.
"""

from __future__ import annotations

import numpy as np

from models.rendering.cpu_rows import (
    CAMERA,
    FACTOR_SCALE,
    ROW,
    SPLAT_COLOR,
    SPLAT_CORNER,
    SPLAT_GAUSSIAN,
    SPLAT_PAIR,
    SPLAT_SPAN,
    TILE,
    load_rows,
    store_rows,
)
from models.rendering.kernels import inline, kernel
from models.rendering.settings import MIN_ALPHA
from models.rendering.simd import (
    any_lane,
    ceil,
    floor,
    fma,
    load,
    log2_roughly,
    lowest_bit,
    mask_bits,
    maximum,
    minimum,
    packed_pairs,
    select,
    splat,
    sqrt,
    store,
)

LOG2_OF_255 = 7.994353436858858
MAX_DETERMINANT = 1e30
"""Covariances past this [px^4] are dropped: they overflow float32."""

# Columns that `gather_parameters` fills.
COLUMN_MEAN, COLUMN_QUAT, COLUMN_SCALE, COLUMN_OPACITY = 0, 48, 112, 160
NUM_COLUMNS = 11


@kernel
def project(
    first_chunk,
    last_chunk,
    chunk_size,
    num_gaussians,
    num_views,
    means,
    quats,
    scales,
    opacities,
    colors,
    color_view_stride,
    cameras,
    width,
    height,
    tiles_x,
    num_tiles,
    near,
    far,
    eps2d,
    antialiased,
    gaussian_rows,
    splats,
    splat_bits,
    num_visible,
    num_pairs,
    tile_counts,
):
    """Fills `gaussian_rows`, and the splat rows of all that can be seen.

    colors: `[n 3]` with color_view_stride 0, or `[v n 3]` with color_view_stride 3 n.
    splats: `[v, padded n]` rows. The visible ones of a chunk stand at the start of its share of each view, in
        order; `num_visible[chunk, view]` says how many. `splat_bits` is its int32 view.
    num_pairs: `[chunk, view]` int64. tile_counts: `[chunk, view, tile]` int32, zero on entry.

    SPLAT_PAIR counts from the start of the chunk and view. Whatever is NaN or infinite is dropped.
    """
    padded = (num_gaussians + ROW - 1) // ROW * ROW
    columns = np.empty(NUM_COLUMNS * 16, np.float32)
    block = np.empty(ROW * 16, np.float32)
    zero = splat(0.0)
    for chunk in range(first_chunk, last_chunk):
        start, stop = chunk * chunk_size, min((chunk + 1) * chunk_size, padded)
        for view in range(num_views):
            num_visible[chunk * num_views + view] = 0
            num_pairs[chunk * num_views + view] = 0
        for first in range(start, stop, ROW):
            gather_parameters(first, num_gaussians, means, quats, scales, opacities, columns)
            store_gaussian_rows(columns, gaussian_rows, first * ROW)
            g = load_rows(gaussian_rows, first * ROW)
            for view in range(num_views):
                c = view * CAMERA
                x, y, z = to_camera(cameras, c, g)
                visible = (z >= near) & (z <= far)
                if not any_lane(visible):
                    continue
                inverse_z = 1.0 / select(visible, z, 1.0)
                axes = image_axes(jacobian_times_rotation(cameras, c, x, y, inverse_z), g)
                cov_xx, cov_xy, cov_yy, sharp, dilated = covariance(axes, eps2d)
                opacity = g[12]
                if antialiased:
                    opacity = opacity * sqrt(sharp / dilated)
                visible &= (dilated > 0.0) & (dilated < MAX_DETERMINANT) & (opacity >= MIN_ALPHA)

                # How far alpha stays above its threshold, and a hair more: the pixels decide for themselves.
                reach = log2_roughly(select(visible, opacity, 1.0)) + (LOG2_OF_255 + 1e-4)
                radius = sqrt(maximum(reach, 0.0)) * (1.00001 / FACTOR_SCALE)
                sqrt_yy = sqrt(cov_yy + eps2d)
                extent_x, extent_y = radius * sqrt(cov_xx + eps2d), radius * sqrt_yy
                u = fma(x * inverse_z, cameras[c + 12], cameras[c + 14])
                v = fma(y * inverse_z, cameras[c + 13], cameras[c + 15])
                left = maximum(ceil(u - extent_x - 0.5), 0.0)
                right = minimum(floor(u + extent_x - 0.5), width - 1)
                top = maximum(ceil(v - extent_y - 0.5), 0.0)
                bottom = minimum(floor(v + extent_y - 0.5), height - 1)
                visible &= (left <= right) & (top <= bottom)
                bits = mask_bits(visible)
                if bits == 0:
                    continue

                tile_left, tile_top = floor(left * (1 / TILE)), floor(top * (1 / TILE))
                span_x = floor(right * (1 / TILE)) - tile_left + 1.0
                span_y = floor(bottom * (1 / TILE)) - tile_top + 1.0
                scaled = FACTOR_SCALE / sqrt(dilated)
                inverse_yy = 1.0 / sqrt_yy
                store_rows(
                    block,
                    0,
                    (
                        u, v,
                        sqrt_yy * scaled, -(cov_xy * scaled * inverse_yy), FACTOR_SCALE * inverse_yy,
                        opacity, zero, zero, zero, z, extent_x, extent_y,
                        packed_pairs(tile_left, tile_top), packed_pairs(span_x, span_y),
                        zero, zero,
                    ),
                )  # fmt: skip

                here = chunk * num_views + view
                row = (view * padded + start + num_visible[here]) * ROW
                pairs = num_pairs[here]
                while bits:
                    lane = np.int64(lowest_bit(bits))
                    bits &= bits - np.uint64(1)
                    color = view * color_view_stride + 3 * (first + lane)
                    red, green, blue = colors[color], colors[color + 1], colors[color + 2]
                    if not abs(red) + abs(green) + abs(blue) < np.inf:
                        continue
                    store(splats, row, load(block, lane * ROW))
                    splats[row + SPLAT_COLOR] = red
                    splats[row + SPLAT_COLOR + 1] = green
                    splats[row + SPLAT_COLOR + 2] = blue
                    splat_bits[row + SPLAT_PAIR] = pairs
                    splat_bits[row + SPLAT_GAUSSIAN] = first + lane
                    corner, span = splat_bits[row + SPLAT_CORNER], splat_bits[row + SPLAT_SPAN]
                    tile = here * num_tiles + (corner >> 16) * tiles_x + (corner & 0xFFFF)
                    for _ in range(span >> 16):
                        for i in range(span & 0xFFFF):
                            tile_counts[tile + i] += 1
                        tile += tiles_x
                    pairs += (span >> 16) * (span & 0xFFFF)
                    row += ROW
                num_visible[here] = row // ROW - (view * padded + start)
                num_pairs[here] = pairs


@inline
def gather_parameters(first, num_gaussians, means, quats, scales, opacities, columns):
    """Sixteen Gaussians' mean, quat, scale and opacity as columns; opacity 0 past the last Gaussian."""
    for lane in range(16):
        n = min(first + lane, num_gaussians - 1)
        for k in range(3):
            columns[COLUMN_MEAN + 16 * k + lane] = means[3 * n + k]
            columns[COLUMN_SCALE + 16 * k + lane] = scales[3 * n + k]
        for k in range(4):
            columns[COLUMN_QUAT + 16 * k + lane] = quats[4 * n + k]
        columns[COLUMN_OPACITY + lane] = opacities[n] if first + lane < num_gaussians else 0.0


@inline
def store_gaussian_rows(columns, gaussian_rows, start):
    """Sixteen gaussian rows from the columns of `gather_parameters`."""
    r, _, _ = rotation_of(columns)
    s0, s1, s2 = scales_of(columns)
    zero = splat(0.0)
    store_rows(
        gaussian_rows,
        start,
        (
            r[0] * s0, r[1] * s1, r[2] * s2,
            r[3] * s0, r[4] * s1, r[5] * s2,
            r[6] * s0, r[7] * s1, r[8] * s2,
            load(columns, COLUMN_MEAN),
            load(columns, COLUMN_MEAN + 16),
            load(columns, COLUMN_MEAN + 32),
            load(columns, COLUMN_OPACITY), zero, zero, zero,
        ),
    )  # fmt: skip


@inline
def rotation_of(columns):
    """Entries, by rows, of the quaternions' rotations; the normalised quaternions; one over their norms."""
    w, x = load(columns, COLUMN_QUAT), load(columns, COLUMN_QUAT + 16)
    y, z = load(columns, COLUMN_QUAT + 32), load(columns, COLUMN_QUAT + 48)
    inverse_norm = 1.0 / sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse_norm, x * inverse_norm, y * inverse_norm, z * inverse_norm
    rotation = (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip
    return rotation, (w, x, y, z), inverse_norm


@inline
def scales_of(columns):
    return (
        load(columns, COLUMN_SCALE),
        load(columns, COLUMN_SCALE + 16),
        load(columns, COLUMN_SCALE + 32),
    )


@inline
def dot3(a0, a1, a2, b0, b1, b2):
    return fma(a0, b0, fma(a1, b1, a2 * b2))


@inline
def to_camera(cameras, c, g):
    """Centres of gaussian rows in camera axes."""
    x = dot3(g[9], g[10], g[11], cameras[c], cameras[c + 1], cameras[c + 2]) + cameras[c + 9]
    y = dot3(g[9], g[10], g[11], cameras[c + 3], cameras[c + 4], cameras[c + 5]) + cameras[c + 10]
    z = dot3(g[9], g[10], g[11], cameras[c + 6], cameras[c + 7], cameras[c + 8]) + cameras[c + 11]
    return x, y, z


@inline
def jacobian(cameras, c, x, y, inverse_z):
    """J's entries xx, xz, yy, yz; the others are zero. x/z and y/z are clamped for xz and yz."""
    tangent_x = minimum(maximum(x * inverse_z, cameras[c + 16]), cameras[c + 17])
    tangent_y = minimum(maximum(y * inverse_z, cameras[c + 18]), cameras[c + 19])
    xx, yy = cameras[c + 12] * inverse_z, cameras[c + 13] * inverse_z
    return xx, -(xx * tangent_x), yy, -(yy * tangent_y)


@inline
def jacobian_times_rotation(cameras, c, x, y, inverse_z):
    """T's six entries, by rows."""
    xx, xz, yy, yz = jacobian(cameras, c, x, y, inverse_z)
    return (
        fma(xx, cameras[c], xz * cameras[c + 6]),
        fma(xx, cameras[c + 1], xz * cameras[c + 7]),
        fma(xx, cameras[c + 2], xz * cameras[c + 8]),
        fma(yy, cameras[c + 3], yz * cameras[c + 6]),
        fma(yy, cameras[c + 4], yz * cameras[c + 7]),
        fma(yy, cameras[c + 5], yz * cameras[c + 8]),
    )


@inline
def image_axes(t, g):
    """P's six entries, by rows, from T and gaussian rows."""
    return (
        dot3(t[0], t[1], t[2], g[0], g[3], g[6]),
        dot3(t[0], t[1], t[2], g[1], g[4], g[7]),
        dot3(t[0], t[1], t[2], g[2], g[5], g[8]),
        dot3(t[3], t[4], t[5], g[0], g[3], g[6]),
        dot3(t[3], t[4], t[5], g[1], g[4], g[7]),
        dot3(t[3], t[4], t[5], g[2], g[5], g[8]),
    )


@inline
def covariance(p, eps2d):
    """Entries xx, xy, yy of P P^T, and its determinants before and after eps2d is added to the diagonal.

    The determinant is the sum of P's squared minors (Cauchy-Binet), which does not cancel as xx yy - xy^2 does.
    """
    xx = dot3(p[0], p[1], p[2], p[0], p[1], p[2])
    xy = dot3(p[0], p[1], p[2], p[3], p[4], p[5])
    yy = dot3(p[3], p[4], p[5], p[3], p[4], p[5])
    minor_01 = fma(p[0], p[4], -(p[1] * p[3]))
    minor_02 = fma(p[0], p[5], -(p[2] * p[3]))
    minor_12 = fma(p[1], p[5], -(p[2] * p[4]))
    sharp = dot3(minor_01, minor_02, minor_12, minor_01, minor_02, minor_12)
    return xx, xy, yy, sharp, sharp + eps2d * (xx + yy + eps2d)
