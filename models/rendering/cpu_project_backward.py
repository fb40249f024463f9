"""From what the tiles gathered about splats to gradients of Gaussians and cameras, sixteen at a time.

Layout and legend: cpu_rows.py and cpu_project.py. `grad_x` is the gradient of the loss by x.
"""

from __future__ import annotations

import numpy as np

from models.rendering.cpu_project import (
    NUM_COLUMNS,
    covariance,
    dot3,
    gather_parameters,
    image_axes,
    jacobian,
    jacobian_times_rotation,
    rotation_of,
    scales_of,
    to_camera,
)
from models.rendering.cpu_rows import (
    CAMERA,
    FACTOR_SCALE,
    MOMENT_1,
    MOMENT_COLOR,
    MOMENT_DEPTH,
    MOMENT_U,
    MOMENT_UU,
    MOMENT_UV,
    MOMENT_V,
    MOMENT_VV,
    ROW,
    SPLAT_GAUSSIAN,
    SPLAT_PAIR,
    SPLAT_SPAN,
    SQUARED_FACTOR_SCALE,
    load_rows,
    store_rows,
)
from models.rendering.kernels import inline, kernel
from models.rendering.simd import absolute, fma, load, select, splat, sqrt, store, sum_each

# Columns that `shape_gradients` fills.
COLUMN_GRAD_QUAT, COLUMN_GRAD_SCALE = 0, 64


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
    """Turns moments of pairs into gradients of all inputs.

    moments: one row a pair, valid where `touched[pair]` (uint8); splats without any are skipped.
    grad_means ... grad_colors: shaped as the inputs, zero on entry.
    grad_cameras: `[chunk, view, 12]` float64, zero on entry: of the rotation's entries and the translation's.
    """
    padded = (num_gaussians + ROW - 1) // ROW * ROW
    gradient_rows = np.empty(chunk_size * ROW, np.float32)
    columns = np.empty(NUM_COLUMNS * 16, np.float32)
    batch = np.empty(ROW * 16, np.float32)
    batch_gaussians = np.empty(ROW * 16, np.float32)
    camera_sums = np.empty(16, np.float32)
    members = np.zeros(16, np.int64)
    for chunk in range(first_chunk, last_chunk):
        start, stop = chunk * chunk_size, min((chunk + 1) * chunk_size, padded)
        for i in range((stop - start) * ROW):
            gradient_rows[i] = 0.0
        for view in range(num_views):
            here = chunk * num_views + view
            row = (view * padded + start) * ROW
            end = row + num_visible[here] * ROW
            while row < end:
                # The next sixteen splats that changed a pixel, with the sums over their tiles.
                size = 0
                while row < end and size < 16:
                    span = splat_bits[row + SPLAT_SPAN]
                    first_pair = np.int64(splat_bits[row + SPLAT_PAIR])
                    total, seen = splat(0.0), False
                    for pair in range(first_pair, first_pair + (span & 0xFFFF) * (span >> 16)):
                        if touched[pair]:
                            total += load(moments, pair * ROW)
                            seen = True
                    if seen:
                        members[size] = splat_bits[row + SPLAT_GAUSSIAN]
                        store(batch, size * ROW, total)
                        size += 1
                    row += ROW
                if size == 0:
                    continue
                for lane in range(16):
                    if lane >= size:
                        # A copy without moments has no gradient.
                        members[lane] = members[0]
                        store(batch, lane * ROW, splat(0.0))
                    store(batch_gaussians, lane * ROW, load(gaussian_rows, members[lane] * ROW))

                splat_gradients(
                    cameras, view * CAMERA, eps2d, antialiased, batch_gaussians, batch, camera_sums
                )
                for k in range(12):
                    grad_cameras[here * 12 + k] += camera_sums[k]
                for lane in range(size):
                    to = (members[lane] - start) * ROW
                    store(gradient_rows, to, load(gradient_rows, to) + load(batch, lane * ROW))
                    if color_view_stride:
                        color = view * color_view_stride + 3 * members[lane]
                        for k in range(3):
                            grad_colors[color + k] = batch[lane * ROW + 13 + k]

        for first in range(start, min(stop, num_gaussians), ROW):
            gather_parameters(first, num_gaussians, means, quats, scales, opacities, columns)
            shape_gradients(columns, gradient_rows, (first - start) * ROW)
            for lane in range(min(ROW, num_gaussians - first)):
                n = first + lane
                row = (n - start) * ROW
                for k in range(3):
                    grad_means[3 * n + k] = gradient_rows[row + 9 + k]
                    grad_scales[3 * n + k] = columns[COLUMN_GRAD_SCALE + 16 * k + lane]
                for k in range(4):
                    grad_quats[4 * n + k] = columns[COLUMN_GRAD_QUAT + 16 * k + lane]
                grad_opacities[n] = gradient_rows[row + 12]
                if not color_view_stride:
                    for k in range(3):
                        grad_colors[3 * n + k] = gradient_rows[row + 13 + k]


@inline
def splat_gradients(cameras, c, eps2d, antialiased, gaussians, batch, camera_sums):
    """Replaces sixteen moment rows in `batch` by gradient rows; `camera_sums` gets the camera's gradient.

    Takes the same steps as `project`, then back. gaussians: the sixteen gaussian rows.
    """
    moment, g = load_rows(batch, 0), load_rows(gaussians, 0)
    x, y, z = to_camera(cameras, c, g)
    inverse_z = 1.0 / z
    xx, xz, yy, yz = jacobian(cameras, c, x, y, inverse_z)
    t = jacobian_times_rotation(cameras, c, x, y, inverse_z)
    p = image_axes(t, g)
    cov_xx, cov_xy, cov_yy, sharp, dilated = covariance(p, eps2d)
    wide_xx, wide_yy = cov_xx + eps2d, cov_yy + eps2d

    # Unscaled factors: the inverse covariance is L L^T with L^T = [[a, b], [0, c]], and with d the offset from
    # the centre, log(alpha) = log(opacity) - |L^T d|^2 / 2. Moments are those of L^T d, scaled. So
    # d/d centre = L sum(L^T d), and d/d covariance = L sum(L^T d d^T L) L^T / 2.
    sqrt_yy, inverse_root = sqrt(wide_yy), 1.0 / sqrt(dilated)
    factor_c = 1.0 / sqrt_yy
    factor_a, factor_b = sqrt_yy * inverse_root, -(cov_xy * inverse_root * factor_c)
    sum_u = moment[MOMENT_U] * (1 / FACTOR_SCALE)
    sum_v = moment[MOMENT_V] * (1 / FACTOR_SCALE)
    half_uu = moment[MOMENT_UU] * (0.5 / SQUARED_FACTOR_SCALE)
    half_uv = moment[MOMENT_UV] * (0.5 / SQUARED_FACTOR_SCALE)
    half_vv = moment[MOMENT_VV] * (0.5 / SQUARED_FACTOR_SCALE)
    grad_center_x = factor_a * sum_u
    grad_center_y = fma(factor_b, sum_u, factor_c * sum_v)
    mixed = fma(factor_b, half_uu, factor_c * half_uv)
    grad_cov_xx = factor_a * factor_a * half_uu
    grad_cov_xy = factor_a * mixed
    grad_cov_yy = fma(factor_b, mixed, factor_c * fma(factor_b, half_uv, factor_c * half_vv))
    if antialiased:
        # log(compensation) = (log det sharp - log det dilated) / 2, whose gradients are the inverses.
        half = 0.5 * moment[MOMENT_1]
        inverse_sharp, inverse_dilated = 1.0 / sharp, 1.0 / dilated
        grad_cov_xx += half * (cov_yy * inverse_sharp - wide_yy * inverse_dilated)
        grad_cov_yy += half * (cov_xx * inverse_sharp - wide_xx * inverse_dilated)
        grad_cov_xy -= half * cov_xy * (inverse_sharp - inverse_dilated)

    # covariance = P P^T
    twice_xx, twice_xy, twice_yy = 2.0 * grad_cov_xx, 2.0 * grad_cov_xy, 2.0 * grad_cov_yy
    grad_p0 = fma(twice_xx, p[0], twice_xy * p[3])
    grad_p1 = fma(twice_xx, p[1], twice_xy * p[4])
    grad_p2 = fma(twice_xx, p[2], twice_xy * p[5])
    grad_p3 = fma(twice_xy, p[0], twice_yy * p[3])
    grad_p4 = fma(twice_xy, p[1], twice_yy * p[4])
    grad_p5 = fma(twice_xy, p[2], twice_yy * p[5])
    # P = T M
    grad_t0 = dot3(grad_p0, grad_p1, grad_p2, g[0], g[1], g[2])
    grad_t1 = dot3(grad_p0, grad_p1, grad_p2, g[3], g[4], g[5])
    grad_t2 = dot3(grad_p0, grad_p1, grad_p2, g[6], g[7], g[8])
    grad_t3 = dot3(grad_p3, grad_p4, grad_p5, g[0], g[1], g[2])
    grad_t4 = dot3(grad_p3, grad_p4, grad_p5, g[3], g[4], g[5])
    grad_t5 = dot3(grad_p3, grad_p4, grad_p5, g[6], g[7], g[8])
    # T = J W
    w0, w1, w2 = cameras[c], cameras[c + 1], cameras[c + 2]
    w3, w4, w5 = cameras[c + 3], cameras[c + 4], cameras[c + 5]
    w6, w7, w8 = cameras[c + 6], cameras[c + 7], cameras[c + 8]
    grad_xx = dot3(grad_t0, grad_t1, grad_t2, w0, w1, w2)
    grad_xz = dot3(grad_t0, grad_t1, grad_t2, w6, w7, w8)
    grad_yy = dot3(grad_t3, grad_t4, grad_t5, w3, w4, w5)
    grad_yz = dot3(grad_t3, grad_t4, grad_t5, w6, w7, w8)
    # J: xx = fx / z and xz = -xx tangent_x, where tangent_x = x/z, or a constant where that is clamped.
    # The centre: fx x/z + cx, never clamped.
    tangent_x, tangent_y = x * inverse_z, y * inverse_z
    free_x = (tangent_x >= cameras[c + 16]) & (tangent_x <= cameras[c + 17])
    free_y = (tangent_y >= cameras[c + 18]) & (tangent_y <= cameras[c + 19])
    grad_tangent_x = fma(grad_center_x, cameras[c + 12], select(free_x, -(grad_xz * xx), 0.0))
    grad_tangent_y = fma(grad_center_y, cameras[c + 13], select(free_y, -(grad_yz * yy), 0.0))
    by_focal = fma(grad_xx, xx, grad_xz * xz) + fma(grad_yy, yy, grad_yz * yz)
    by_tangents = fma(grad_tangent_x, tangent_x, grad_tangent_y * tangent_y)
    grad_x, grad_y = grad_tangent_x * inverse_z, grad_tangent_y * inverse_z
    grad_z = moment[MOMENT_DEPTH] - inverse_z * (by_focal + by_tangents)

    store_rows(
        batch,
        0,
        (
            fma(t[0], grad_p0, t[3] * grad_p3),
            fma(t[0], grad_p1, t[3] * grad_p4),
            fma(t[0], grad_p2, t[3] * grad_p5),
            fma(t[1], grad_p0, t[4] * grad_p3),
            fma(t[1], grad_p1, t[4] * grad_p4),
            fma(t[1], grad_p2, t[4] * grad_p5),
            fma(t[2], grad_p0, t[5] * grad_p3),
            fma(t[2], grad_p1, t[5] * grad_p4),
            fma(t[2], grad_p2, t[5] * grad_p5),
            dot3(grad_x, grad_y, grad_z, w0, w3, w6),
            dot3(grad_x, grad_y, grad_z, w1, w4, w7),
            dot3(grad_x, grad_y, grad_z, w2, w5, w8),
            moment[MOMENT_1] / g[12],
            moment[MOMENT_COLOR],
            moment[MOMENT_COLOR + 1],
            moment[MOMENT_COLOR + 2],
        ),
    )
    sums = sum_each(
        (
            fma(grad_x, g[9], xx * grad_t0),
            fma(grad_x, g[10], xx * grad_t1),
            fma(grad_x, g[11], xx * grad_t2),
            fma(grad_y, g[9], yy * grad_t3),
            fma(grad_y, g[10], yy * grad_t4),
            fma(grad_y, g[11], yy * grad_t5),
            fma(grad_z, g[9], fma(xz, grad_t0, yz * grad_t3)),
            fma(grad_z, g[10], fma(xz, grad_t1, yz * grad_t4)),
            fma(grad_z, g[11], fma(xz, grad_t2, yz * grad_t5)),
            grad_x,
            grad_y,
            grad_z,
        )
    )
    store(camera_sums, 0, sums)


@inline
def shape_gradients(columns, gradient_rows, start):
    """Gradients of quat and scale from sixteen gradient rows of M = R(quat) diag(scale), into `columns`.

    columns: as `gather_parameters` leaves them; overwritten.
    """
    d = load_rows(gradient_rows, start)
    r, (w, x, y, z), inverse_norm = rotation_of(columns)
    s0, s1, s2 = scales_of(columns)
    # A Gaussian that nothing saw may hold NaN; its gradient is zero all the same.
    seen = (
        absolute(d[0]) + absolute(d[1]) + absolute(d[2])
        + absolute(d[3]) + absolute(d[4]) + absolute(d[5])
        + absolute(d[6]) + absolute(d[7]) + absolute(d[8])
    ) > 0.0  # fmt: skip
    d0, d1, d2 = d[0] * s0, d[1] * s1, d[2] * s2
    d3, d4, d5 = d[3] * s0, d[4] * s1, d[5] * s2
    d6, d7, d8 = d[6] * s0, d[7] * s1, d[8] * s2
    grad_w = 2.0 * (x * (d7 - d5) + y * (d2 - d6) + z * (d3 - d1))
    grad_x = 2.0 * (w * (d7 - d5) + y * (d1 + d3) + z * (d2 + d6) - 2.0 * x * (d4 + d8))
    grad_y = 2.0 * (w * (d2 - d6) + x * (d1 + d3) + z * (d5 + d7) - 2.0 * y * (d0 + d8))
    grad_z = 2.0 * (w * (d3 - d1) + x * (d2 + d6) + y * (d5 + d7) - 2.0 * z * (d0 + d4))
    # Normalising the quaternion leaves only the part across it.
    along = w * grad_w + x * grad_x + y * grad_y + z * grad_z
    store(columns, COLUMN_GRAD_QUAT, select(seen, (grad_w - along * w) * inverse_norm, 0.0))
    store(columns, COLUMN_GRAD_QUAT + 16, select(seen, (grad_x - along * x) * inverse_norm, 0.0))
    store(columns, COLUMN_GRAD_QUAT + 32, select(seen, (grad_y - along * y) * inverse_norm, 0.0))
    store(columns, COLUMN_GRAD_QUAT + 48, select(seen, (grad_z - along * z) * inverse_norm, 0.0))
    for k in range(3):
        grad_scale = dot3(d[k], d[3 + k], d[6 + k], r[k], r[3 + k], r[6 + k])
        store(columns, COLUMN_GRAD_SCALE + 16 * k, select(seen, grad_scale, 0.0))
