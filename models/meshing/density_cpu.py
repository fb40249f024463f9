"""The sum of Gaussians at grid nodes, block by block, in numba.

Layout: blocks `[b node 3]` (world points), Gaussians as rows of `ROW` numbers: centre (0-2), whitening matrix by
rows (3-11: rotated and divided by the standard deviations, so that its product with an offset is in sigmas),
opacity (12), half extents of the box within which it counts (13-15), squared cut-off in sigmas (16).
"""

import numpy as np
from numba import njit

ROW = 17


@njit(nogil=True, cache=True, error_model="numpy")
def add_density(first, last, nodes, rows, density):
    """Fills `density[b, node]` for the blocks first..last-1; all in float64."""
    num_nodes = nodes.shape[1]
    low, high = np.empty(3), np.empty(3)
    for block in range(first, last):
        for axis in range(3):
            low[axis] = high[axis] = nodes[block, 0, axis]
        for node in range(num_nodes):
            density[block, node] = 0.0
            for axis in range(3):
                low[axis] = min(low[axis], nodes[block, node, axis])
                high[axis] = max(high[axis], nodes[block, node, axis])
        for row in rows:
            if (
                row[0] + row[13] < low[0]
                or row[0] - row[13] > high[0]
                or row[1] + row[14] < low[1]
                or row[1] - row[14] > high[1]
                or row[2] + row[15] < low[2]
                or row[2] - row[15] > high[2]
            ):
                continue
            for node in range(num_nodes):
                x = nodes[block, node, 0] - row[0]
                y = nodes[block, node, 1] - row[1]
                z = nodes[block, node, 2] - row[2]
                a = row[3] * x + row[4] * y + row[5] * z
                b = row[6] * x + row[7] * y + row[8] * z
                c = row[9] * x + row[10] * y + row[11] * z
                square = a * a + b * b + c * c
                if square < row[16]:
                    density[block, node] += row[12] * np.exp(-0.5 * square)
