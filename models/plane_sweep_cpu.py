"""The plane sweep's match costs on the CPU: what `PlaneSweep.costs` says in torch, several times as fast.

Layout: images `[b t h w 4]` (colour, and a fourth value that fills the vector), rays `[b t n 3]`.
"""

import numpy as np
from numba import njit

FARTHEST = np.float32(1e-6)


@njit(error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def blend(upper, lower, left, channel, weights):
    """Bilinear value between two pixels of an upper row and the two below them."""
    return (
        weights[0] * upper[left, channel]
        + weights[1] * upper[left + 1, channel]
        + weights[2] * lower[left, channel]
        + weights[3] * lower[left + 1, channel]
    )


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def sweep_costs(first, last, images, rays, turns, starts, inverse, sources, worst, costs):
    """Fills `costs[b, t, k, n]` for the frames first..last-1 of all batch * t frames.

    turns `[b t s 3 3]` and starts `[b t s 3]` take a unit ray and its inverse distance to pixels of source s:
    turn @ ray + start * inverse, up to scale.
    """
    num_frames, height, width = images.shape[1], images.shape[2], images.shape[3]
    num_cells, num_distances = height * width, len(inverse)
    total = np.empty(num_distances, np.float32)
    count = np.empty(num_distances, np.float32)
    half, one = np.float32(0.5), np.float32(1)
    for item in range(first, last):
        batch, frame = item // num_frames, item % num_frames
        for cell in range(num_cells):
            own = images[batch, frame, cell // width, cell % width]
            red, green, blue = own[0], own[1], own[2]
            ray = rays[batch, frame, cell]
            for k in range(num_distances):
                total[k] = 0
                count[k] = 0
            for s in range(len(sources)):
                source = sources[s]
                if source == frame:
                    continue
                turn, start = turns[batch, frame, s], starts[batch, frame, s]
                x0 = turn[0, 0] * ray[0] + turn[0, 1] * ray[1] + turn[0, 2] * ray[2]
                y0 = turn[1, 0] * ray[0] + turn[1, 1] * ray[1] + turn[1, 2] * ray[2]
                z0 = turn[2, 0] * ray[0] + turn[2, 1] * ray[1] + turn[2, 2] * ray[2]
                for k in range(num_distances):
                    z = z0 + start[2] * inverse[k]
                    if z <= FARTHEST:
                        continue
                    scale = one / z
                    u = (x0 + start[0] * inverse[k]) * scale
                    v = (y0 + start[1] * inverse[k]) * scale
                    if not (u > 0 and u < width and v > 0 and v < height):
                        continue
                    u = min(max(u - half, np.float32(0)), np.float32(width - 1))
                    v = min(max(v - half, np.float32(0)), np.float32(height - 1))
                    left, top = min(int(u), width - 2), min(int(v), height - 2)
                    a, c = u - np.float32(left), v - np.float32(top)
                    upper, lower = images[batch, source, top], images[batch, source, top + 1]
                    weights = ((one - a) * (one - c), a * (one - c), (one - a) * c, a * c)
                    difference = abs(blend(upper, lower, left, 0, weights) - red)
                    difference += abs(blend(upper, lower, left, 1, weights) - green)
                    difference += abs(blend(upper, lower, left, 2, weights) - blue)
                    total[k] += difference
                    count[k] += one
            for k in range(num_distances):
                cost = worst
                if count[k] > 0:
                    cost = total[k] / (np.float32(3) * count[k])
                costs[batch, frame, k, cell] = cost
