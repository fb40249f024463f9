"""From Gaussians in the world to splats in the images, and gradients back: the CPU rasteriser's outer part.

All arrays are flat float32 unless said otherwise. Gaussians are handled in chunks of fixed size, the unit of
work for threads, and within a chunk sixteen at a time (see simd.py); nothing depends on how many threads run.

Legend
    n, v            Gaussians, views
    mean, m         centre in world axes; x y z its position in camera axes
    shape           M = R(quat) diag(scale), 3x3, so that the covariance is M M^T
    to_image        T = J W, 2x3: Jacobian of the projection times the camera's rotation
    axes            P = T M, 2x3: the 2-D covariance is P P^T
    a, b, c         factors of the inverse 2-D covariance, scaled so that at an offset (dx, dy) from the centre
                        u = a dx + b dy,  v = c dy,  alpha = opacity * 2^-(u^2 + v^2)
                    Squares of a factor stay accurate for needle-like splats, where the usual
                    A dx^2 + 2 B dx dy + C dy^2 cancels.
    pair            a splat together with one tile that it touches

Rows of sixteen floats, one cache line each
    gaussian row    M (0-8, by rows), mean (9-11), opacity (12)
    splat row       see the SPLAT_ constants; whole numbers are stored by their bits
    moment row      see the MOMENT_ constants
    gradient row    of M (0-8), mean (9-11), opacity (12), colour (13-15)
    camera          rotation (0-8), translation (9-11), fx, fy, cx, cy (12-15), smallest and largest x/z that the
                    Jacobian uses (16, 17), the same for y/z (18, 19)
"""

from __future__ import annotations

import numpy as np
from numba import njit

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
    sum_each,
    transpose,
)

ROW = 16
CAMERA = 20
TILE = 32
"""Side of a tile [px]; a tile has 8 x 8 blocks of 4 x 4 pixels."""

MIN_ALPHA = 1 / 255
LOG2_OF_255 = 7.994353436858858
# alpha = opacity * exp(-sigma) = opacity * 2^-(u^2 + v^2): lengths in (u, v) are this times those in sigmas.
FACTOR_SCALE = 0.8493218002880191  # sqrt(log2(e) / 2)
MOMENT_SCALE = 0.7213475204444817  # FACTOR_SCALE^2
LARGEST = 1e30
"""Covariances whose determinant passes this are dropped: they overflow float32."""

# Columns of a splat row.
SPLAT_X, SPLAT_Y = 0, 1  # centre [px]
SPLAT_A, SPLAT_B, SPLAT_C = 2, 3, 4
SPLAT_OPACITY = 5  # after compensation
SPLAT_COLOR = 6  # three columns
SPLAT_DEPTH = 9
SPLAT_EXTENT_X, SPLAT_EXTENT_Y = 10, 11  # half the bounding box of alpha >= 1/255 [px]
SPLAT_CORNER = 12  # first tile touched: column | row << 16
SPLAT_SPAN = 13  # tiles touched: columns | rows << 16
SPLAT_PAIR = 14  # number of its first pair
SPLAT_GAUSSIAN = 15  # n

# Columns of a moment row: sums over pixels of d loss / d log(alpha) times these, then of weight * gradient.
MOMENT_1, MOMENT_U, MOMENT_V, MOMENT_UU, MOMENT_UV, MOMENT_VV = 0, 1, 2, 3, 4, 5
MOMENT_COLOR = 6  # three columns
MOMENT_DEPTH = 9

kernel = njit(nogil=True, cache=True, error_model="numpy")
inline = njit(error_model="numpy", forceinline=True)


@inline
def load_rows(array, start):
    """Sixteen consecutive rows as sixteen columns of lanes."""
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


@inline
def rotation_matrix(w, x, y, z):
    """Entries, by rows, of the rotation of a unit quaternion."""
    return (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@inline
def gather_parameters(first, num_gaussians, means, quats, scales, opacities, columns):
    """Sixteen Gaussians' mean, quat, scale, opacity as 11 columns; opacity 0 past the last Gaussian."""
    for lane in range(16):
        n = min(first + lane, num_gaussians - 1)
        for k in range(3):
            columns[16 * k + lane] = means[3 * n + k]
            columns[16 * (7 + k) + lane] = scales[3 * n + k]
        for k in range(4):
            columns[16 * (3 + k) + lane] = quats[4 * n + k]
        columns[160 + lane] = opacities[n] if first + lane < num_gaussians else 0.0


@inline
def to_camera(cameras, c, mx, my, mz):
    """Positions in camera axes."""
    x = fma(cameras[c], mx, fma(cameras[c + 1], my, fma(cameras[c + 2], mz, cameras[c + 9])))
    y = fma(cameras[c + 3], mx, fma(cameras[c + 4], my, fma(cameras[c + 5], mz, cameras[c + 10])))
    z = fma(cameras[c + 6], mx, fma(cameras[c + 7], my, fma(cameras[c + 8], mz, cameras[c + 11])))
    return x, y, z


@inline
def jacobian(cameras, c, x, y, inverse_z):
    """Entries xx, xz, yy, yz of the projection's Jacobian, and x/z, y/z as clamped for it."""
    tan_x = minimum(maximum(x * inverse_z, cameras[c + 16]), cameras[c + 17])
    tan_y = minimum(maximum(y * inverse_z, cameras[c + 18]), cameras[c + 19])
    xx = cameras[c + 12] * inverse_z
    yy = cameras[c + 13] * inverse_z
    return xx, -(xx * tan_x), yy, -(yy * tan_y), tan_x, tan_y


@inline
def to_image_rows(cameras, c, xx, xz, yy, yz):
    """The two rows of J W."""
    return (
        fma(xx, cameras[c], xz * cameras[c + 6]),
        fma(xx, cameras[c + 1], xz * cameras[c + 7]),
        fma(xx, cameras[c + 2], xz * cameras[c + 8]),
        fma(yy, cameras[c + 3], yz * cameras[c + 6]),
        fma(yy, cameras[c + 4], yz * cameras[c + 7]),
        fma(yy, cameras[c + 5], yz * cameras[c + 8]),
    )


@inline
def dot3(a0, a1, a2, b0, b1, b2):
    return fma(a0, b0, fma(a1, b1, a2 * b2))


@inline
def image_axes(t0, t1, t2, s0, s1, s2, g):
    """The two rows of P = T M, for a gaussian row in lanes."""
    return (
        dot3(t0, t1, t2, g[0], g[3], g[6]),
        dot3(t0, t1, t2, g[1], g[4], g[7]),
        dot3(t0, t1, t2, g[2], g[5], g[8]),
        dot3(s0, s1, s2, g[0], g[3], g[6]),
        dot3(s0, s1, s2, g[1], g[4], g[7]),
        dot3(s0, s1, s2, g[2], g[5], g[8]),
    )


@inline
def covariance(p0, p1, p2, q0, q1, q2, eps2d):
    """2-D covariance entries without the dilation, and the determinants without and with it.

    The determinant of P P^T is the sum of P's squared minors (Cauchy-Binet): no cancellation.
    """
    xx = dot3(p0, p1, p2, p0, p1, p2)
    xy = dot3(p0, p1, p2, q0, q1, q2)
    yy = dot3(q0, q1, q2, q0, q1, q2)
    minor_01 = fma(p0, q1, -(p1 * q0))
    minor_02 = fma(p0, q2, -(p2 * q0))
    minor_12 = fma(p1, q2, -(p2 * q1))
    sharp = dot3(minor_01, minor_02, minor_12, minor_01, minor_02, minor_12)
    dilated = sharp + eps2d * (xx + yy + eps2d)
    return xx, xy, yy, sharp, dilated


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
    """Fills `gaussian_rows`, and the splat rows of what can be seen.

    splats: `[v, padded n, 16]`. The visible Gaussians of a chunk stand at the start of its share of each view, in
        order; `num_visible[chunk, view]` says how many. `splat_bits` is the same memory as int32.
    num_pairs: `[chunk, view]` int64. tile_counts: `[chunk, view, tile]` int32, zero on entry.
    SPLAT_PAIR counts from the start of the chunk and view.
    """
    padded = (num_gaussians + ROW - 1) // ROW * ROW
    columns = np.empty(11 * 16, np.float32)
    block_rows = np.empty(16 * 16, np.float32)
    for chunk in range(first_chunk, last_chunk):
        start, stop = chunk * chunk_size, min((chunk + 1) * chunk_size, padded)
        for view in range(num_views):
            num_visible[chunk * num_views + view] = 0
            num_pairs[chunk * num_views + view] = 0
        for first in range(start, stop, ROW):
            gather_parameters(first, num_gaussians, means, quats, scales, opacities, columns)
            w, x, y, z = load(columns, 48), load(columns, 64), load(columns, 80), load(columns, 96)
            inverse_norm = 1.0 / sqrt(w * w + x * x + y * y + z * z)
            r = rotation_matrix(
                w * inverse_norm, x * inverse_norm, y * inverse_norm, z * inverse_norm
            )
            s0, s1, s2 = load(columns, 112), load(columns, 128), load(columns, 144)
            zero = splat(0.0)
            g = (
                r[0] * s0, r[1] * s1, r[2] * s2,
                r[3] * s0, r[4] * s1, r[5] * s2,
                r[6] * s0, r[7] * s1, r[8] * s2,
                load(columns, 0), load(columns, 16), load(columns, 32),
                load(columns, 160), zero, zero, zero,
            )  # fmt: skip
            store_rows(gaussian_rows, first * ROW, g)
            for view in range(num_views):
                c = view * CAMERA
                x, y, z = to_camera(cameras, c, g[9], g[10], g[11])
                visible = (z >= near) & (z <= far)
                if not any_lane(visible):
                    continue
                inverse_z = 1.0 / select(visible, z, 1.0)
                xx, xz, yy, yz, _, _ = jacobian(cameras, c, x, y, inverse_z)
                t0, t1, t2, t3, t4, t5 = to_image_rows(cameras, c, xx, xz, yy, yz)
                p0, p1, p2, q0, q1, q2 = image_axes(t0, t1, t2, t3, t4, t5, g)
                cov_xx, cov_xy, cov_yy, sharp, dilated = covariance(p0, p1, p2, q0, q1, q2, eps2d)
                cov_xx, cov_yy = cov_xx + eps2d, cov_yy + eps2d
                opacity = g[12]
                if antialiased:
                    opacity = opacity * sqrt(sharp / dilated)
                visible = visible & (dilated > 0.0) & (dilated < LARGEST) & (opacity >= MIN_ALPHA)

                # How far alpha stays above its threshold; a hair more, since the pixels decide for themselves.
                reach = log2_roughly(select(visible, opacity, 1.0)) + LOG2_OF_255 + 1e-4
                reach = maximum(reach, 0.0)
                radius = sqrt(reach) * (1.00001 / FACTOR_SCALE)
                sqrt_yy = sqrt(cov_yy)
                extent_x, extent_y = radius * sqrt(cov_xx), radius * sqrt_yy
                u = fma(x * inverse_z, cameras[c + 12], cameras[c + 14])
                v = fma(y * inverse_z, cameras[c + 13], cameras[c + 15])
                left = maximum(ceil(u - extent_x - 0.5), 0.0)
                right = minimum(floor(u + extent_x - 0.5), width - 1)
                top = maximum(ceil(v - extent_y - 0.5), 0.0)
                bottom = minimum(floor(v + extent_y - 0.5), height - 1)
                visible = visible & (left <= right) & (top <= bottom)
                bits = mask_bits(visible)
                if bits == 0:
                    continue
                tile_left, tile_top = floor(left * (1 / TILE)), floor(top * (1 / TILE))
                tile_right, tile_bottom = floor(right * (1 / TILE)), floor(bottom * (1 / TILE))

                inverse_det = FACTOR_SCALE / sqrt(dilated)
                inverse_yy = 1.0 / sqrt_yy
                store_rows(
                    block_rows,
                    0,
                    (
                        u, v, sqrt_yy * inverse_det, -(cov_xy * inverse_det * inverse_yy),
                        FACTOR_SCALE * inverse_yy, opacity, zero, zero,
                        zero, z, extent_x, extent_y,
                        packed_pairs(tile_left, tile_top),
                        packed_pairs(tile_right - tile_left + 1.0, tile_bottom - tile_top + 1.0),
                        zero, zero,
                    ),
                )  # fmt: skip

                here = chunk * num_views + view
                row = (view * padded + start + num_visible[here]) * ROW
                pairs = num_pairs[here]
                while bits:
                    lane = np.int64(lowest_bit(bits))
                    bits &= bits - np.uint64(1)
                    n = first + lane
                    color = view * color_view_stride + 3 * n
                    red, green, blue = colors[color], colors[color + 1], colors[color + 2]
                    if not abs(red) + abs(green) + abs(blue) < np.inf:
                        continue
                    store(splats, row, load(block_rows, lane * ROW))
                    splats[row + SPLAT_COLOR] = red
                    splats[row + SPLAT_COLOR + 1] = green
                    splats[row + SPLAT_COLOR + 2] = blue
                    splat_bits[row + SPLAT_PAIR] = pairs
                    splat_bits[row + SPLAT_GAUSSIAN] = n
                    corner, span = splat_bits[row + SPLAT_CORNER], splat_bits[row + SPLAT_SPAN]
                    span_x, span_y = span & 0xFFFF, span >> 16
                    pairs += span_x * span_y
                    row += ROW
                    tile = here * num_tiles + (corner >> 16) * tiles_x + (corner & 0xFFFF)
                    for _ in range(span_y):
                        for i in range(span_x):
                            tile_counts[tile + i] += 1
                        tile += tiles_x
                num_visible[here] = row // ROW - (view * padded + start)
                num_pairs[here] = pairs


@kernel
def project_backward(
    first_chunk,
    last_chunk,
    chunk_size,
    num_gaussians,
    num_views,
    means,
    quats,
    scales,
    opacities,
    color_view_stride,
    cameras,
    eps2d,
    antialiased,
    gaussian_rows,
    splat_bits,
    num_visible,
    moments,
    touched,
    grad_means,
    grad_quats,
    grad_scales,
    grad_opacities,
    grad_colors,
    grad_cameras,
):
    """Turns moments of the pairs into gradients of the inputs.

    moments: `[pair, 16]`, valid where `touched[pair]` (uint8) is set; a splat without one is skipped.
    grad_colors: zero on entry. grad_cameras: `[chunk, view, 12]` float64, zero on entry: of the rotation's nine
        entries and the translation's three.
    """
    padded = (num_gaussians + ROW - 1) // ROW * ROW
    gradient_rows = np.empty(chunk_size * ROW, np.float32)
    columns = np.empty(11 * 16, np.float32)
    batch = np.empty(16 * 16, np.float32)
    batch_shapes = np.empty(16 * 16, np.float32)
    members = np.zeros(16, np.int64)
    for chunk in range(first_chunk, last_chunk):
        start, stop = chunk * chunk_size, min((chunk + 1) * chunk_size, padded)
        gradient_rows[: (stop - start) * ROW] = 0.0
        for view in range(num_views):
            here = chunk * num_views + view
            row = (view * padded + start) * ROW
            end = row + num_visible[here] * ROW
            while row < end:
                # Collect the next sixteen splats that any pixel saw.
                size = 0
                while row < end and size < 16:
                    span = splat_bits[row + SPLAT_SPAN]
                    pair = np.int64(splat_bits[row + SPLAT_PAIR])
                    total = splat(0.0)
                    seen = False
                    for i in range(pair, pair + (span & 0xFFFF) * (span >> 16)):
                        if touched[i]:
                            total += load(moments, i * ROW)
                            seen = True
                    if seen:
                        members[size] = splat_bits[row + SPLAT_GAUSSIAN]
                        store(batch, size * ROW, total)
                        size += 1
                    row += ROW
                if size == 0:
                    continue
                for lane in range(size, 16):
                    members[lane] = members[0]
                    store(batch, lane * ROW, splat(0.0))
                for lane in range(16):
                    store(batch_shapes, lane * ROW, load(gaussian_rows, members[lane] * ROW))
                splat_gradients(
                    cameras, view * CAMERA, eps2d, antialiased,
                    batch, batch_shapes, grad_cameras, here * 12,
                )  # fmt: skip
                for lane in range(size):
                    to = (members[lane] - start) * ROW
                    store(
                        gradient_rows, to, load(gradient_rows, to) + load(batch, lane * ROW)
                    )
                    if color_view_stride:
                        for k in range(3):
                            grad_colors[view * color_view_stride + 3 * members[lane] + k] = batch[
                                lane * ROW + 13 + k
                            ]
        for first in range(start, min(stop, num_gaussians), ROW):
            gather_parameters(first, num_gaussians, means, quats, scales, opacities, columns)
            shape_gradients(columns, gradient_rows, (first - start) * ROW)
            for lane in range(min(ROW, num_gaussians - first)):
                n = first + lane
                row = (first - start + lane) * ROW
                for k in range(3):
                    grad_means[3 * n + k] = gradient_rows[row + 9 + k]
                    grad_scales[3 * n + k] = columns[16 * (4 + k) + lane]
                for k in range(4):
                    grad_quats[4 * n + k] = columns[16 * k + lane]
                grad_opacities[n] = gradient_rows[row + 12]
                if not color_view_stride:
                    for k in range(3):
                        grad_colors[3 * n + k] = gradient_rows[row + 13 + k]


@inline
def splat_gradients(
    cameras, c, eps2d, antialiased, batch, batch_shapes, grad_cameras, camera_at
):
    """Replaces sixteen moment rows by gradient rows, and adds to the camera's gradient."""
    moment = load_rows(batch, 0)
    g = load_rows(batch_shapes, 0)
    x, y, z = to_camera(cameras, c, g[9], g[10], g[11])
    inverse_z = 1.0 / z
    xx, xz, yy, yz, tan_x, tan_y = jacobian(cameras, c, x, y, inverse_z)
    t0, t1, t2, t3, t4, t5 = to_image_rows(cameras, c, xx, xz, yy, yz)
    p0, p1, p2, q0, q1, q2 = image_axes(t0, t1, t2, t3, t4, t5, g)
    cov_xx, cov_xy, cov_yy, sharp, dilated = covariance(p0, p1, p2, q0, q1, q2, eps2d)
    dilated_xx, dilated_yy = cov_xx + eps2d, cov_yy + eps2d

    # Factors (unscaled) of the inverse covariance K = L L^T, with L^T = [[a, b], [0, c]] and
    # log(alpha) = log(opacity) - |L^T d|^2 / 2. The moments are those of L^T d, times FACTOR_SCALE.
    sqrt_yy = sqrt(dilated_yy)
    inverse_det = 1.0 / sqrt(dilated)
    c_factor = 1.0 / sqrt_yy
    a, b = sqrt_yy * inverse_det, -(cov_xy * inverse_det * c_factor)
    moment_u, moment_v = moment[1] * (1 / FACTOR_SCALE), moment[2] * (1 / FACTOR_SCALE)
    half_uu = moment[3] * (0.5 / MOMENT_SCALE)
    half_uv = moment[4] * (0.5 / MOMENT_SCALE)
    half_vv = moment[5] * (0.5 / MOMENT_SCALE)
    # d/d centre = L sum(L^T d); d/d covariance = L sum(L^T d d^T L) L^T / 2.
    grad_u = a * moment_u
    grad_v = fma(b, moment_u, c_factor * moment_v)
    mixed = fma(b, half_uu, c_factor * half_uv)
    cov_grad_xx = a * a * half_uu
    cov_grad_xy = a * mixed
    cov_grad_yy = fma(b, mixed, c_factor * fma(b, half_uv, c_factor * half_vv))

    grad_opacity = moment[0] / g[12]
    if antialiased:
        # log(compensation) = (log det sharp - log det dilated) / 2
        half = 0.5 * moment[0]
        inverse_sharp, inverse_dilated = 1.0 / sharp, 1.0 / dilated
        cov_grad_xx += half * (cov_yy * inverse_sharp - dilated_yy * inverse_dilated)
        cov_grad_yy += half * (cov_xx * inverse_sharp - dilated_xx * inverse_dilated)
        cov_grad_xy -= half * cov_xy * (inverse_sharp - inverse_dilated)

    # covariance = P P^T, so d/dP = 2 G P.
    g_xx, g_xy, g_yy = 2.0 * cov_grad_xx, 2.0 * cov_grad_xy, 2.0 * cov_grad_yy
    dp0, dp1, dp2 = fma(g_xx, p0, g_xy * q0), fma(g_xx, p1, g_xy * q1), fma(g_xx, p2, g_xy * q2)
    dq0, dq1, dq2 = fma(g_xy, p0, g_yy * q0), fma(g_xy, p1, g_yy * q1), fma(g_xy, p2, g_yy * q2)
    # P = T M
    dt0 = dot3(dp0, dp1, dp2, g[0], g[1], g[2])
    dt1 = dot3(dp0, dp1, dp2, g[3], g[4], g[5])
    dt2 = dot3(dp0, dp1, dp2, g[6], g[7], g[8])
    dt3 = dot3(dq0, dq1, dq2, g[0], g[1], g[2])
    dt4 = dot3(dq0, dq1, dq2, g[3], g[4], g[5])
    dt5 = dot3(dq0, dq1, dq2, g[6], g[7], g[8])
    # T = J W
    w0, w1, w2 = cameras[c], cameras[c + 1], cameras[c + 2]
    w3, w4, w5 = cameras[c + 3], cameras[c + 4], cameras[c + 5]
    w6, w7, w8 = cameras[c + 6], cameras[c + 7], cameras[c + 8]
    grad_xx = fma(dt0, w0, fma(dt1, w1, dt2 * w2))
    grad_xz = fma(dt0, w6, fma(dt1, w7, dt2 * w8))
    grad_yy = fma(dt3, w3, fma(dt4, w4, dt5 * w5))
    grad_yz = fma(dt3, w6, fma(dt4, w7, dt5 * w8))
    # J: xx = fx / z, xz = -fx / z * tan_x; tan_x = x / z where it is not clamped, else constant.
    free_x, free_y = x * inverse_z, y * inverse_z
    is_free_x = (free_x >= cameras[c + 16]) & (free_x <= cameras[c + 17])
    is_free_y = (free_y >= cameras[c + 18]) & (free_y <= cameras[c + 19])
    grad_free_x = fma(grad_u, cameras[c + 12], select(is_free_x, -(grad_xz * xx), 0.0))
    grad_free_y = fma(grad_v, cameras[c + 13], select(is_free_y, -(grad_yz * yy), 0.0))
    grad_x, grad_y = grad_free_x * inverse_z, grad_free_y * inverse_z
    from_jacobian = fma(grad_xx, xx, fma(grad_xz, xz, fma(grad_yy, yy, grad_yz * yz)))
    from_tangents = fma(grad_free_x, free_x, grad_free_y * free_y)
    grad_z = moment[9] - inverse_z * (from_jacobian + from_tangents)

    store_rows(
        batch,
        0,
        (
            fma(t0, dp0, t3 * dq0), fma(t0, dp1, t3 * dq1), fma(t0, dp2, t3 * dq2),
            fma(t1, dp0, t4 * dq0), fma(t1, dp1, t4 * dq1), fma(t1, dp2, t4 * dq2),
            fma(t2, dp0, t5 * dq0), fma(t2, dp1, t5 * dq1), fma(t2, dp2, t5 * dq2),
            fma(w0, grad_x, fma(w3, grad_y, w6 * grad_z)),
            fma(w1, grad_x, fma(w4, grad_y, w7 * grad_z)),
            fma(w2, grad_x, fma(w5, grad_y, w8 * grad_z)),
            grad_opacity, moment[6], moment[7], moment[8],
        ),
    )  # fmt: skip
    sums = sum_each(
        (
            fma(grad_x, g[9], xx * dt0), fma(grad_x, g[10], xx * dt1), fma(grad_x, g[11], xx * dt2),
            fma(grad_y, g[9], yy * dt3), fma(grad_y, g[10], yy * dt4), fma(grad_y, g[11], yy * dt5),
            fma(grad_z, g[9], fma(xz, dt0, yz * dt3)),
            fma(grad_z, g[10], fma(xz, dt1, yz * dt4)),
            fma(grad_z, g[11], fma(xz, dt2, yz * dt5)),
            grad_x, grad_y, grad_z,
        )
    )  # fmt: skip
    store(batch_shapes, 0, sums)
    for k in range(12):
        grad_cameras[camera_at + k] += batch_shapes[k]


@inline
def shape_gradients(columns, gradient_rows, start):
    """From gradients of M = R(quat) diag(scale) to those of quat (columns 0-3) and scale (columns 4-6)."""
    d = load_rows(gradient_rows, start)
    w, x, y, z = load(columns, 48), load(columns, 64), load(columns, 80), load(columns, 96)
    inverse_norm = 1.0 / sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse_norm, x * inverse_norm, y * inverse_norm, z * inverse_norm
    r = rotation_matrix(w, x, y, z)
    s0, s1, s2 = load(columns, 112), load(columns, 128), load(columns, 144)
    # A Gaussian that nothing saw may hold NaN; its gradient is zero, not NaN.
    seen = (
        maximum(d[0], -d[0]) + maximum(d[1], -d[1]) + maximum(d[2], -d[2])
        + maximum(d[3], -d[3]) + maximum(d[4], -d[4]) + maximum(d[5], -d[5])
        + maximum(d[6], -d[6]) + maximum(d[7], -d[7]) + maximum(d[8], -d[8])
    ) > 0.0  # fmt: skip
    for k in range(3):
        grad_scale = dot3(d[k], d[3 + k], d[6 + k], r[k], r[3 + k], r[6 + k])
        store(columns, 16 * (4 + k), select(seen, grad_scale, 0.0))
    d0, d1, d2 = d[0] * s0, d[1] * s1, d[2] * s2
    d3, d4, d5 = d[3] * s0, d[4] * s1, d[5] * s2
    d6, d7, d8 = d[6] * s0, d[7] * s1, d[8] * s2
    grad_w = 2.0 * (z * (d3 - d1) + y * (d2 - d6) + x * (d7 - d5))
    grad_x = 2.0 * (y * (d1 + d3) + z * (d2 + d6) + w * (d7 - d5) - 2.0 * x * (d4 + d8))
    grad_y = 2.0 * (x * (d1 + d3) + z * (d5 + d7) + w * (d2 - d6) - 2.0 * y * (d0 + d8))
    grad_z = 2.0 * (x * (d2 + d6) + y * (d5 + d7) + w * (d3 - d1) - 2.0 * z * (d0 + d4))
    # Only the part across the quaternion survives its normalisation.
    along = w * grad_w + x * grad_x + y * grad_y + z * grad_z
    store(columns, 0, select(seen, (grad_w - along * w) * inverse_norm, 0.0))
    store(columns, 16, select(seen, (grad_x - along * x) * inverse_norm, 0.0))
    store(columns, 32, select(seen, (grad_y - along * y) * inverse_norm, 0.0))
    store(columns, 48, select(seen, (grad_z - along * z) * inverse_norm, 0.0))
