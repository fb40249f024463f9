"""Parts in plain words: boxes, pillars and balls that stand on a floor.

Objects have their origin on the floor below their middle, y down (so heights are negative y), front
towards -z. Sizes are in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.procedural.primitives import BOX, ELLIPSOID, FRUSTUM
from data.procedural.scene import Material, Number, Part, Triple, rotation


def box(x: Number, top: Number, z: Number, size: Triple, material: Material) -> Part:
    """An upright box of the given full size whose top is `top` metres over the floor."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Part(BOX, (x, -top + half[1], z), half, material)


def pillar(
    x: Number,
    top: Number,
    z: Number,
    radius: Number,
    height: Number,
    material: Material,
    shape: Number = 1.0,
) -> Part:
    """An upright cylinder, cone (shape 0) or bucket (shape > 1); radius is that of its bottom."""
    centre, half = (x, -top + height / 2, z), (radius, height / 2, radius)
    return Part(FRUSTUM, centre, half, material, shape=shape)


def ball(x: Number, y: Number, z: Number, radii: Triple, material: Material) -> Part:
    """An ellipsoid whose centre is `y` metres over the floor."""
    return Part(ELLIPSOID, (x, -y, z), radii, material)


def moved(part: Part, x: Number, y: Number, z: Number) -> Part:
    """A part shifted along its object's axes."""
    cx, cy, cz = part.centre
    return replace(part, centre=(cx + x, cy + y, cz + z))


def turned(part: Part, yaw: Number, pitch: Number = 0.0, roll: Number = 0.0) -> Part:
    """A part turned about its own centre, angles in radians."""
    return replace(part, rotation=rotation(yaw, pitch, roll))


def footprint(parts: Sequence[Part]) -> float:
    """Radius [m] around the origin that an object's parts stay within, seen from above."""
    reach = 0.0
    for part in parts:
        widest = max(1.0, part.shape) if part.kind == FRUSTUM else 1.0
        half = np.hypot(part.half_size[0] * widest, part.half_size[2] * widest)
        reach = max(reach, float(np.hypot(part.centre[0], part.centre[2]) + half))
    return reach
