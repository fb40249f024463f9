"""A ray against a whole scene: what it meets first, and whether anything is in its way."""

from __future__ import annotations

from numba import njit

from data.procedural.primitives import JIT, intersect

NOWHERE = 1e5
"""Rays end here [m]; the sky is nearer."""


@njit(**JIT)
def to_canonical(to_local, solid, x, y, z):  # type: ignore[no-untyped-def]
    """A world point in a solid's canonical space."""
    m = to_local
    return (
        m[solid, 0, 0] * x + m[solid, 0, 1] * y + m[solid, 0, 2] * z + m[solid, 0, 3],
        m[solid, 1, 0] * x + m[solid, 1, 1] * y + m[solid, 1, 2] * z + m[solid, 1, 3],
        m[solid, 2, 0] * x + m[solid, 2, 1] * y + m[solid, 2, 2] * z + m[solid, 2, 3],
    )


@njit(**JIT)
def _meet(kind, shape, to_local, solid, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    m = to_local
    x, y, z = to_canonical(to_local, solid, ox, oy, oz)
    u = m[solid, 0, 0] * dx + m[solid, 0, 1] * dy + m[solid, 0, 2] * dz
    v = m[solid, 1, 0] * dx + m[solid, 1, 1] * dy + m[solid, 1, 2] * dz
    w = m[solid, 2, 0] * dx + m[solid, 2, 1] * dy + m[solid, 2, 2] * dz
    return intersect(kind[solid], shape[solid], x, y, z, u, v, w, limit)


@njit(**JIT)
def _misses_group(spheres, group, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    """Whether a ray (unit direction) stays clear of a group's sphere up to `limit`."""
    x, y, z = spheres[group, 0] - ox, spheres[group, 1] - oy, spheres[group, 2] - oz
    radius = spheres[group, 3]
    along = x * dx + y * dy + z * dz
    if along - radius > limit or along + radius < 0.0:
        return True
    return x * x + y * y + z * z - along * along > radius * radius


@njit(**JIT)
def nearest(kind, shape, to_local, start, spheres, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    best, solid, face = NOWHERE, -1, 0
    for group in range(len(spheres)):
        if group > 0 and _misses_group(spheres, group, ox, oy, oz, dx, dy, dz, best):
            continue
        for p in range(start[group], start[group + 1]):
            t, f = _meet(kind, shape, to_local, p, ox, oy, oz, dx, dy, dz, best)
            if t > 0.0:
                best, solid, face = t, p, f
    return best, solid, face


@njit(**JIT)
def is_free(kind, shape, to_local, start, spheres, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    for group in range(1, len(spheres)):
        if _misses_group(spheres, group, ox, oy, oz, dx, dy, dz, limit):
            continue
        for p in range(start[group], start[group + 1]):
            t, _ = _meet(kind, shape, to_local, p, ox, oy, oz, dx, dy, dz, limit)
            if t > 0.0:
                return False
    return True
