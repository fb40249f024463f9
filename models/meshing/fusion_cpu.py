"""Truncated signed distances at grid nodes from depth maps, in numba.

Layout: blocks `[b node 3]` (world points), depth `[v h w]` (z, 0 unknown), cameras `[v 16]`: rotation by rows (0-8),
translation (9-11), fx, fy, cx, cy (12-15).
"""

import numpy as np
from numba import njit

MIN_FACING = 0.1


@njit(nogil=True, cache=True, error_model="numpy")
def fuse_depth(first, last, nodes, reaches, depth, facing, cameras, distance, weight):
    """Fills `distance[b, node]` (in shares of the reach, -1 to 1) and `weight[b, node]` for blocks first..last-1.

    reaches `[b node]`: how far from a surface distances are told [scene units]. depth `[v h w]`: 0 unknown,
    infinite nothing. facing: cosine between the surface's normal and the ray; it makes a distance along the ray one
    to the surface's plane, and weighs. A view says nothing of what lies farther than the reach behind what it sees,
    nor beside the border of what it sees nothing behind.
    """
    num_views, height, width = depth.shape
    for block in range(first, last):
        for node in range(nodes.shape[1]):
            x, y, z = nodes[block, node, 0], nodes[block, node, 1], nodes[block, node, 2]
            reach = reaches[block, node]
            total, count = 0.0, 0.0
            for view in range(num_views):
                camera = cameras[view]
                c = camera[6] * x + camera[7] * y + camera[8] * z + camera[11]
                if c <= 1e-6:
                    continue
                a = camera[0] * x + camera[1] * y + camera[2] * z + camera[9]
                b = camera[3] * x + camera[4] * y + camera[5] * z + camera[10]
                u, v = camera[12] * a / c + camera[14], camera[13] * b / c + camera[15]
                if not (u >= 0 and u < width and v >= 0 and v < height):
                    continue
                row, column = min(int(v), height - 1), min(int(u), width - 1)
                seen = depth[view, row, column]
                if seen == 0:
                    continue
                # The four pixels around tell whether this is one surface, an edge, or nothing.
                left = min(max(int(np.floor(u - 0.5)), 0), width - 2)
                top = min(max(int(np.floor(v - 0.5)), 0), height - 2)
                d0, d1 = depth[view, top, left], depth[view, top, left + 1]
                d2, d3 = depth[view, top + 1, left], depth[view, top + 1, left + 1]
                low, high = min(min(d0, d1), min(d2, d3)), max(max(d0, d1), max(d2, d3))
                if seen == np.inf and low < np.inf:
                    continue
                cosine = 1.0
                if seen < np.inf:
                    cosine = max(facing[view, row, column], MIN_FACING)
                    if low > 0 and (high - low) * cosine < reach:
                        s = min(max(u - 0.5 - left, 0.0), 1.0)
                        t = min(max(v - 0.5 - top, 0.0), 1.0)
                        seen = (1 - t) * ((1 - s) * d0 + s * d1) + t * ((1 - s) * d2 + s * d3)
                # Along the ray a step of 1 in depth is as long as the ray's point at depth 1.
                away = (seen - c) * np.sqrt(a * a + b * b + c * c) / c
                if away < -reach:
                    continue
                away *= cosine
                total += cosine * min(away / reach, 1.0)
                count += cosine
            weight[block, node] = count
            distance[block, node] = total / max(count, 1e-9)
