"""Solids in their own canonical space: where a ray meets them, the normal there, and texture coordinates.

A point p of the world is `to_local @ (p, 1)` in canonical space; the ray parameter t is the same in both.
Axes are the world's: y points down, so a solid's top is at y = -1.

| kind | canonical solid |
|---|---|
| PLANE | the plane y = 0, seen from above |
| ELLIPSOID | the unit ball |
| BOX | the cube [-1, 1]^3 |
| FRUSTUM | round the y axis, radius 1 at y = 1 and `shape` at y = -1, capped: cylinder, cone, bucket |
| PRISM | a roof: ridge along x at y = -1, base y = 1 with z in [-1, 1] |
| ROOM | the inside of the cube [-1, 1]^3 |
| DOME | the inside of the unit sphere |
"""

from __future__ import annotations

import math

from numba import njit

PLANE, ELLIPSOID, BOX, FRUSTUM, PRISM, ROOM, DOME = range(7)

# Faces: 2 * axis + (1 where the outward normal is positive), then the rest.
LEFT, RIGHT, TOP, BOTTOM, BACK, FRONT, ROUND, SLOPE_FRONT, SLOPE_BACK = range(9)

MISS = -1.0
EPSILON = 1e-4
"""Hits nearer than this [world units] do not count, so that a surface does not hide itself."""
JIT = {"nogil": True, "error_model": "numpy"}
"""For functions that are compiled into a kernel; only the kernel itself is cached (see tracer.py)."""


@njit(**JIT)
def intersect(
    kind: int,
    shape: float,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
    limit: float,
) -> tuple[float, int]:
    """First t in (EPSILON, limit) where the canonical ray o + t d meets the solid, and the face; MISS if none."""
    if kind == BOX:
        return _box(ox, oy, oz, dx, dy, dz, limit)
    if kind == ELLIPSOID:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - 1.0
        root = b * b - a * c
        if root < 0.0:
            return MISS, 0
        t = (-b - math.sqrt(root)) / a
        return (t, ROUND) if EPSILON < t < limit else (MISS, 0)
    if kind == FRUSTUM:
        return _frustum(shape, ox, oy, oz, dx, dy, dz, limit)
    if kind == PRISM:
        return _prism(ox, oy, oz, dx, dy, dz, limit)
    if kind == PLANE:
        if dy <= 1e-9:
            return MISS, 0
        t = -oy / dy
        return (t, TOP) if EPSILON < t < limit else (MISS, 0)
    if kind == ROOM:
        return _room(ox, oy, oz, dx, dy, dz, limit)
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - 1.0
    root = b * b - a * c
    if root < 0.0:
        return MISS, 0
    t = (-b + math.sqrt(root)) / a
    return (t, ROUND) if EPSILON < t < limit else (MISS, 0)


@njit(**JIT)
def _inverse(x: float) -> float:
    """1 / x, with x kept away from 0."""
    if abs(x) > 1e-12:
        return 1.0 / x
    return 1e12 if x >= 0.0 else -1e12


@njit(**JIT)
def _box(ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    enter, face = -abs(ix) - ox * ix, LEFT if dx > 0.0 else RIGHT
    leave = abs(ix) - ox * ix
    t = -abs(iy) - oy * iy
    if t > enter:
        enter, face = t, TOP if dy > 0.0 else BOTTOM
    leave = min(leave, abs(iy) - oy * iy)
    t = -abs(iz) - oz * iz
    if t > enter:
        enter, face = t, BACK if dz > 0.0 else FRONT
    leave = min(leave, abs(iz) - oz * iz)
    return (enter, face) if EPSILON < enter < min(limit, leave) else (MISS, 0)


@njit(**JIT)
def _room(ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    """Walls are named by their inward normals: the wall at x = +1 faces left."""
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    leave, face = abs(ix) - ox * ix, LEFT if dx > 0.0 else RIGHT
    t = abs(iy) - oy * iy
    if t < leave:
        leave, face = t, TOP if dy > 0.0 else BOTTOM
    t = abs(iz) - oz * iz
    if t < leave:
        leave, face = t, BACK if dz > 0.0 else FRONT
    return (leave, face) if EPSILON < leave < limit else (MISS, 0)


@njit(**JIT)
def _frustum(shape, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    middle, taper = 0.5 * (1.0 + shape), 0.5 * (1.0 - shape)
    best, face = limit, -1
    radius, growth = middle + taper * oy, taper * dy
    a = dx * dx + dz * dz - growth * growth
    b = ox * dx + oz * dz - radius * growth
    c = ox * ox + oz * oz - radius * radius
    root = b * b - a * c
    if root >= 0.0 and abs(a) > 1e-14:
        root = math.sqrt(root)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            y = oy + t * dy
            if EPSILON < t < best and -1.0 <= y <= 1.0 and radius + t * growth >= 0.0:
                # From outside the first crossing of the side goes inwards.
                best, face = t, ROUND
    if abs(dy) > 1e-12:
        for end in (-1.0, 1.0):
            t = (end - oy) / dy
            if EPSILON < t < best:
                x, z = ox + t * dx, oz + t * dz
                edge = shape if end < 0.0 else 1.0
                if x * x + z * z <= edge * edge:
                    best, face = t, TOP if end < 0.0 else BOTTOM
    return (best, face) if face >= 0 else (MISS, 0)


@njit(**JIT)
def _prism(ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    ix = _inverse(dx)
    enter, face = -abs(ix) - ox * ix, LEFT if dx > 0.0 else RIGHT
    leave = abs(ix) - ox * ix
    for k in range(3):
        # Half-spaces: distance + t * rate <= 0.
        if k == 0:
            distance, rate, side = oy - 1.0, dy, BOTTOM
        elif k == 1:
            distance, rate, side = oz - 0.5 * (oy + 1.0), dz - 0.5 * dy, SLOPE_FRONT
        else:
            distance, rate, side = -oz - 0.5 * (oy + 1.0), -dz - 0.5 * dy, SLOPE_BACK
        t = -distance * _inverse(rate)
        if rate < 0.0:
            if t > enter:
                enter, face = t, side
        else:
            leave = min(leave, t)
    return (enter, face) if EPSILON < enter < min(limit, leave) else (MISS, 0)


@njit(**JIT)
def canonical_normal(
    kind: int, shape: float, face: int, x: float, y: float, z: float
) -> tuple[float, float, float]:
    """Outward normal in canonical space (not of unit length) at the point (x, y, z) of a face."""
    if face == ROUND:
        if kind == FRUSTUM:
            taper = 0.5 * (1.0 - shape)
            radius = 0.5 * (1.0 + shape) + taper * y
            return x, -taper * radius, z
        if kind == DOME:
            return -x, -y, -z
        return x, y, z
    if face == SLOPE_FRONT:
        return 0.0, -0.5, 1.0
    if face == SLOPE_BACK:
        return 0.0, -0.5, -1.0
    sign = 1.0 if face % 2 == 1 else -1.0
    if face <= RIGHT:
        return sign, 0.0, 0.0
    if face <= BOTTOM:
        return 0.0, sign, 0.0
    return 0.0, 0.0, sign


@njit(**JIT)
def surface_coordinates(
    face: int, x: float, y: float, z: float, hx: float, hy: float, hz: float, tile: float
) -> tuple[float, float]:
    """Texture coordinates (u, v) in tiles, v downwards, for every face but an ellipsoid's.

    hx, hy, hz: half sizes of the solid; tile: size of one texture tile [world units].
    """
    if face == ROUND:
        # A whole number of mirrored repeats goes round, so that no seam shows.
        repeats = max(1.0, float(round(math.pi * hx / tile)))
        return math.atan2(x, z) / math.pi * repeats, y * hy / tile
    if face <= RIGHT:
        return z * hz / tile, y * hy / tile
    if face <= BOTTOM:
        return x * hx / tile, z * hz / tile
    if face <= FRONT:
        return x * hx / tile, y * hy / tile
    return x * hx / tile, y * math.sqrt(hy * hy + 0.25 * hz * hz) / tile
