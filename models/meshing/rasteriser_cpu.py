"""A z-buffer for triangles, in numba: which face each pixel shows, and where on it.

Triangles are given by their corners in homogeneous pixel coordinates (u z, v z, z), so that those that reach behind
the camera need no clipping: a pixel's weights solve corners @ weights = z * pixel (Olano and Greer 1997).
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def image_box(corners, near, box):
    """Fills box with the smallest and largest u and v of the part of a triangle with z >= near; False where none."""
    box[0] = box[1] = np.inf
    box[2] = box[3] = -np.inf
    for i in range(3):
        a, b = corners[i], corners[(i + 1) % 3]
        if a[2] >= near:
            u, v = a[0] / a[2], a[1] / a[2]
            box[0], box[1] = min(box[0], u), min(box[1], v)
            box[2], box[3] = max(box[2], u), max(box[3], v)
        if (a[2] >= near) != (b[2] >= near):
            share = (near - a[2]) / (b[2] - a[2])
            u, v = (a[0] + share * (b[0] - a[0])) / near, (a[1] + share * (b[1] - a[1])) / near
            box[0], box[1] = min(box[0], u), min(box[1], v)
            box[2], box[3] = max(box[2], u), max(box[3], v)
    return box[0] <= box[2]


@njit(nogil=True, cache=True, error_model="numpy")
def draw_triangles(first, last, corners, faces, near, slack, face_at, weights_at, depth_at):
    """Fills pictures first..last-1: `face_at[v, h, w]` (-1 for none), `weights_at[v, h, w, 2]` (of the first two
    corners), `depth_at[v, h, w]` (inf for none).

    corners `[v n 3]`: vertices in homogeneous pixel coordinates. slack: how far below zero weights may be.
    """
    box = np.empty(4)
    points = np.empty((3, 3))
    for view in range(first, last):
        height, width = face_at.shape[1], face_at.shape[2]
        for row in range(height):
            for column in range(width):
                face_at[view, row, column] = -1
                depth_at[view, row, column] = np.inf
        for face in range(len(faces)):
            for i in range(3):
                for axis in range(3):
                    points[i, axis] = corners[view, faces[face, i], axis]
            if not image_box(points, near, box):
                continue
            left = max(int(np.ceil(max(box[0], 0.0) - 0.5)), 0)
            top = max(int(np.ceil(max(box[1], 0.0) - 0.5)), 0)
            right = min(int(np.floor(min(box[2], width * 1.0) - 0.5)), width - 1)
            bottom = min(int(np.floor(min(box[3], height * 1.0) - 0.5)), height - 1)
            if left > right or top > bottom:
                continue
            # Rows of the adjugate: weight i at (u, v) is proportional to its product with (u, v, 1).
            a, b, c = points[0], points[1], points[2]
            a0, a1, a2 = (
                b[1] * c[2] - b[2] * c[1],
                b[2] * c[0] - b[0] * c[2],
                b[0] * c[1] - b[1] * c[0],
            )
            b0, b1, b2 = (
                c[1] * a[2] - c[2] * a[1],
                c[2] * a[0] - c[0] * a[2],
                c[0] * a[1] - c[1] * a[0],
            )
            c0, c1, c2 = (
                a[1] * b[2] - a[2] * b[1],
                a[2] * b[0] - a[0] * b[2],
                a[0] * b[1] - a[1] * b[0],
            )
            volume = a[0] * a0 + a[1] * a1 + a[2] * a2
            if volume == 0:
                continue
            for row in range(top, bottom + 1):
                v = row + 0.5
                for column in range(left, right + 1):
                    u = column + 0.5
                    first_weight = a0 * u + a1 * v + a2
                    second_weight = b0 * u + b1 * v + b2
                    total = first_weight + second_weight + c0 * u + c1 * v + c2
                    depth = volume / total
                    if not (depth >= near and depth < depth_at[view, row, column]):
                        continue
                    p, q = first_weight / total, second_weight / total
                    if p >= -slack and q >= -slack and p + q <= 1 + slack:
                        face_at[view, row, column] = face
                        depth_at[view, row, column] = depth
                        weights_at[view, row, column, 0] = p
                        weights_at[view, row, column, 1] = q
