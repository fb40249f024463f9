"""Every solid against a float64 search along the ray for where its defining inequality first changes."""

from __future__ import annotations

import numpy as np
import pytest

from data.procedural import primitives
from data.procedural.primitives import (
    BOX,
    DOME,
    ELLIPSOID,
    FRUSTUM,
    PLANE,
    PRISM,
    ROOM,
    canonical_normal,
)

LIMIT = 60.0


def intersect(kind, shape, *ray_and_limit):
    """The kernel's function, always with the same types, so that it is compiled once."""
    return primitives.intersect(kind, float(shape), *map(float, ray_and_limit))


def excess(kind, shape, points):
    """Negative inside the solid, positive outside, for canonical points `[n 3]`."""
    x, y, z = points.T
    cube = np.abs(points).max(axis=1) - 1
    ball = np.linalg.norm(points, axis=1) - 1
    if kind == PLANE:
        return -y
    if kind in (BOX, ROOM):
        return cube if kind == BOX else -cube
    if kind in (ELLIPSOID, DOME):
        return ball if kind == ELLIPSOID else -ball
    if kind == FRUSTUM:
        radius = shape + (1 - shape) * (y + 1) / 2
        return np.maximum(np.abs(y) - 1, np.hypot(x, z) - radius)
    assert kind == PRISM
    return np.max([np.abs(x) - 1, np.abs(y) - 1, np.abs(z) - (y + 1) / 2], axis=0)


def search(kind, shape, origin, direction):
    """First t in (0, LIMIT) at which the ray enters the solid, or None: sampling, then bisection."""
    t = np.linspace(1e-3, LIMIT, 60_001)
    outside = excess(kind, shape, origin + t[:, None] * direction) > 0
    crossing = np.flatnonzero(outside[:-1] & ~outside[1:])
    if len(crossing) == 0:
        return None
    low, high = t[crossing[0]], t[crossing[0] + 1]
    for _ in range(60):
        middle = (low + high) / 2
        point = (origin + middle * direction)[None]
        low, high = (middle, high) if excess(kind, shape, point)[0] > 0 else (low, middle)
    return high


def rays(kind, rng, number):
    enclosing = kind in (ROOM, DOME)
    for _ in range(number):
        origin = rng.uniform(-0.5, 0.5, 3) if enclosing else rng.normal(0, 1, 3)
        if not enclosing:
            origin *= rng.uniform(2.5, 6) / np.linalg.norm(origin)
        if kind == PLANE:
            origin[1] = -abs(origin[1]) - 0.1
        target = rng.uniform(-1.1, 1.1, 3)
        direction = target - origin
        yield origin, direction / np.linalg.norm(direction)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (PLANE, 1.0),
        (ELLIPSOID, 1.0),
        (BOX, 1.0),
        (FRUSTUM, 1.0),
        (FRUSTUM, 0.0),
        (FRUSTUM, 0.4),
        (FRUSTUM, 1.7),
        (PRISM, 1.0),
        (ROOM, 1.0),
        (DOME, 1.0),
    ],
)
def test_first_hit_and_normal(kind, shape):
    rng = np.random.default_rng(7)
    hits = 0
    for origin, direction in rays(kind, rng, 150):
        t, face = intersect(kind, shape, *origin, *direction, LIMIT)
        expected = search(kind, shape, origin, direction)
        if expected is None:
            grazed = origin + max(t, 0.0) * direction
            # The search may step over a graze; then the point still lies on the surface.
            assert t == primitives.MISS or abs(excess(kind, shape, grazed[None])[0]) < 1e-9
            continue
        hits += 1
        assert t == pytest.approx(expected, abs=1e-9)
        point = origin + t * direction
        normal = np.array(canonical_normal(kind, shape, face, *point))
        normal /= np.linalg.norm(normal)
        assert normal @ direction < 0
        # A step along the normal leaves the solid as fast as any step can.
        steps = point + 1e-5 * np.stack([normal, -normal])
        away, into = excess(kind, shape, steps)
        assert away > 0 > into
        slopes = [excess(kind, shape, (point + 1e-6 * e)[None])[0] / 1e-6 for e in np.eye(3)]
        slopes = np.array(slopes) / np.linalg.norm(slopes)
        assert slopes @ normal > 1 - 1e-3
    assert hits > 40


def test_nothing_beyond_the_limit_or_behind():
    assert intersect(BOX, 1.0, 0, 0, -5, 0, 0, 1, 3.9)[0] == primitives.MISS
    assert intersect(BOX, 1.0, 0, 0, -5, 0, 0, 1, 4.1)[0] == pytest.approx(4)
    for kind in (BOX, ELLIPSOID, FRUSTUM, PRISM):
        assert intersect(kind, 1.0, 0, 0.5, -5, 0, 0, -1, LIMIT)[0] == primitives.MISS
    # A plane is seen from above only (y points down).
    assert intersect(PLANE, 1.0, 0, 1, 0, 0, -1, 0, LIMIT)[0] == primitives.MISS
