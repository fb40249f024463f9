"""Furniture and other objects of rooms, each a list of parts (axes and units as in shapes.py)."""

from __future__ import annotations

from collections.abc import Callable

from data.procedural.materials import Materials
from data.procedural.primitives import BOX
from data.procedural.scene import Material, Part
from data.procedural.shapes import ball, box, moved, pillar, turned

Draw = Callable[[Materials], list[Part]]


def table(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood, height = materials.wood(), rng.uniform(0.42, 0.8)
    width, length = rng.uniform(0.7, 1.6), rng.uniform(0.6, 1.0)
    parts = [box(0, height, 0, (width, 0.06, length), wood)]
    if rng.random() < 0.3:
        parts.append(pillar(0, height - 0.06, 0, 0.3, 0.05 + height - 0.11, wood, shape=0.25))
    else:
        leg = rng.uniform(0.05, 0.09)
        for right in (-1, 1):
            for back in (-1, 1):
                x, z = right * (width / 2 - leg), back * (length / 2 - leg)
                parts.append(box(x, height - 0.05, z, (leg, height - 0.05, leg), wood))
    for _ in range(int(rng.integers(0, 4))):
        x, z = rng.uniform(-0.35, 0.35) * width, rng.uniform(-0.35, 0.35) * length
        parts += [moved(part, x, -height, z) for part in trinket(materials)]
    return parts


def trinket(materials: Materials) -> list[Part]:
    """Something small enough to stand on a table."""
    rng = materials.rng
    material = materials.paint() if rng.random() < 0.6 else materials.cloth()
    size, pick = rng.uniform(0.07, 0.17), int(rng.integers(4))
    if pick == 0:
        return [ball(0, size, 0, (size, size, size), material)]
    if pick == 1:
        return [box(0, 1.4 * size, 0, (2 * size, 1.4 * size, 1.5 * size), material)]
    if pick == 2:
        return [pillar(0, 2.2 * size, 0, 0.6 * size, 2.2 * size, material, rng.uniform(0.5, 1.7))]
    return [
        pillar(0, 1.2 * size, 0, 0.6 * size, 1.2 * size, material, 1.3),
        ball(0, 2.0 * size, 0, (size, 1.2 * size, size), materials.leaves()),
    ]


def chair(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood, seat = materials.wood(), rng.uniform(0.42, 0.5)
    cover = materials.cloth() if rng.random() < 0.5 else wood
    back = rng.uniform(0.35, 0.6)
    parts = [
        box(0, seat, 0, (0.46, 0.06, 0.46), cover),
        box(0, seat + back, 0.21, (0.46, back, 0.05), cover),
    ]
    for x in (-0.2, 0.2):
        parts += [box(x, seat, z, (0.045, seat, 0.045), wood) for z in (-0.2, 0.2)]
    return parts


def stool(materials: Materials) -> list[Part]:
    rng = materials.rng
    height, radius = rng.uniform(0.4, 0.7), rng.uniform(0.17, 0.3)
    wood = materials.wood()
    return [
        pillar(0, height, 0, radius, 0.08, materials.cloth()),
        pillar(0, height - 0.08, 0, 0.8 * radius, height - 0.08, wood, shape=rng.uniform(0.3, 1)),
    ]


def sofa(materials: Materials) -> list[Part]:
    rng = materials.rng
    cloth, width = materials.cloth(), rng.uniform(0.9, 2.1)
    arm, back = rng.uniform(0.5, 0.65), rng.uniform(0.75, 0.95)
    parts = [
        box(0, 0.42, 0, (width, 0.36, 0.8), cloth),
        box(0, back, 0.36, (width, back - 0.06, 0.2), cloth),
        box(-width / 2, arm, 0, (0.2, arm - 0.04, 0.85), cloth),
        box(width / 2, arm, 0, (0.2, arm - 0.04, 0.85), cloth),
    ]
    for x in rng.uniform(-0.35, 0.35, int(rng.integers(0, 3))) * width:
        parts.append(ball(x, 0.58, 0.16, (0.22, 0.18, 0.1), materials.cloth()))
    return parts


def bed(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood, width = materials.wood(), rng.uniform(0.9, 1.6)
    cover = materials.cloth()
    parts = [
        box(0, 0.32, 0, (width, 0.24, 2.0), wood),
        box(0, 0.5, 0, (0.95 * width, 0.2, 1.94), cover),
        box(0, rng.uniform(0.8, 1.1), 1.0, (width, 0.8, 0.06), wood),
    ]
    pillow = materials.wall()
    for x in (-0.22, 0.22):
        parts.append(ball(x * width, 0.55, 0.7, (0.2 * width, 0.09, 0.2), pillow))
    return parts


def cupboard(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood = materials.wood() if rng.random() < 0.7 else materials.paint()
    width, height, length = rng.uniform(0.6, 1.6), rng.uniform(0.7, 2.1), rng.uniform(0.4, 0.6)
    parts = [box(0, height, 0, (width, height, length), wood)]
    dark = Material(
        wood.texture, wood.tile, (0.8 * wood.tint[0], 0.8 * wood.tint[1], 0.8 * wood.tint[2])
    )
    doors = max(1, round(width / 0.5))
    for i in range(doors):
        x = ((i + 0.5) / doors - 0.5) * width
        parts.append(
            box(x, 0.95 * height, -length / 2, (0.9 * width / doors, 0.88 * height, 0.03), dark)
        )
    if height < 1.3:
        for _ in range(int(rng.integers(0, 4))):
            at = rng.uniform(-0.4, 0.4) * width
            parts += [moved(part, at, -height, 0) for part in trinket(materials)]
    return parts


def shelf(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood, width, height = materials.wood(), rng.uniform(0.7, 1.5), rng.uniform(0.9, 2.0)
    boards = int(rng.integers(3, 5))
    parts = [
        box(-width / 2, height, 0, (0.05, height, 0.34), wood),
        box(width / 2, height, 0, (0.05, height, 0.34), wood),
        box(0, height, 0.16, (width, height, 0.02), wood),
    ]
    for i in range(boards):
        top = height * (i + 1) / boards
        parts.append(box(0, top, 0, (width, 0.04, 0.34), wood))
        room, x = height / boards - 0.06, -0.44 * width
        below = top - height / boards
        while x < 0.4 * width and rng.random() < 0.85:
            # A block of books of one height.
            block, tall = rng.uniform(0.12, 0.35), room * rng.uniform(0.55, 0.9)
            block = min(block, 0.46 * width - x)
            cover = materials.cloth() if rng.random() < 0.5 else materials.paint()
            parts.append(box(x + block / 2, below + tall, 0, (block, tall, 0.24), cover))
            x += block + rng.uniform(0.02, 0.2)
    return parts


def floor_lamp(materials: Materials) -> list[Part]:
    rng = materials.rng
    height, metal = rng.uniform(1.2, 1.8), materials.paint()
    return [
        pillar(0, 0.04, 0, 0.17, 0.04, metal),
        pillar(0, height, 0, 0.025, height, metal),
        pillar(0, height + 0.1, 0, rng.uniform(0.18, 0.28), 0.32, materials.lamp(), 0.6),
    ]


def plant(materials: Materials) -> list[Part]:
    rng = materials.rng
    pot, leaves = rng.uniform(0.22, 0.45), materials.leaves()
    crown = rng.uniform(0.25, 0.5)
    parts = [pillar(0, pot, 0, 0.4 * pot + 0.06, pot, materials.paint(), shape=1.35)]
    for _ in range(int(rng.integers(2, 5))):
        x, z = rng.normal(0, 0.3 * crown, 2)
        size = crown * rng.uniform(0.5, 0.9)
        parts.append(
            ball(x, pot + crown * rng.uniform(0.6, 1.6), z, (size, 1.3 * size, size), leaves)
        )
    return parts


def crates(materials: Materials) -> list[Part]:
    rng = materials.rng
    parts: list[Part] = []
    top, size = 0.0, rng.uniform(0.35, 0.75)
    for _ in range(int(rng.integers(1, 4))):
        shape = (
            size * rng.uniform(0.8, 1.4),
            size * rng.uniform(0.6, 1.1),
            size * rng.uniform(0.8, 1.3),
        )
        material = materials.wood() if rng.random() < 0.6 else materials.cloth()
        part = box(rng.normal(0, 0.05), top + shape[1], rng.normal(0, 0.05), shape, material)
        parts.append(turned(part, rng.uniform(-0.5, 0.5)))
        top += shape[1]
        size *= rng.uniform(0.6, 0.9)
    return parts


def vessel(materials: Materials) -> list[Part]:
    """A jar, vase or barrel made of two cones."""
    rng = materials.rng
    radius, height = rng.uniform(0.12, 0.32), rng.uniform(0.35, 0.95)
    belly, share = rng.uniform(1.15, 1.6), rng.uniform(0.4, 0.7)
    material = materials.paint() if rng.random() < 0.5 else materials.stone()
    return [
        pillar(0, share * height, 0, radius, share * height, material, belly),
        pillar(0, height, 0, belly * radius, (1 - share) * height, material, rng.uniform(0.4, 0.9)),
    ]


def sphere(materials: Materials) -> list[Part]:
    rng = materials.rng
    radius = rng.uniform(0.15, 0.45)
    material = materials.paint() if rng.random() < 0.5 else materials.cloth()
    return [ball(0, radius, 0, (radius, radius, radius), material)]


def column(materials: Materials) -> list[Part]:
    rng = materials.rng
    stone, radius, height = materials.stone(), rng.uniform(0.12, 0.25), rng.uniform(0.8, 2.6)
    parts = [
        box(0, 0.15, 0, (3 * radius, 0.15, 3 * radius), stone),
        pillar(0, height, 0, radius, height, stone, shape=rng.uniform(0.75, 1.0)),
        box(0, height + 0.1, 0, (2.6 * radius, 0.12, 2.6 * radius), stone),
    ]
    if height < 1.3:
        parts += [moved(part, 0, -height - 0.1, 0) for part in vessel(materials)]
    return parts


def picture(materials: Materials) -> list[Part]:
    """A framed photograph that hangs with its back to +z; the origin is its middle."""
    rng = materials.rng
    width, height = rng.uniform(0.45, 1.3), rng.uniform(0.4, 1.0)
    return [
        Part(BOX, (0, 0, -0.02), (width / 2 + 0.04, height / 2 + 0.04, 0.02), materials.wood()),
        Part(BOX, (0, 0, -0.025), (width / 2, height / 2, 0.025), materials.picture(width)),
    ]


def window(materials: Materials) -> list[Part]:
    """A bright window with a cross of bars; the origin is its middle, the wall behind it at +z."""
    rng = materials.rng
    width, height = rng.uniform(0.7, 1.5), rng.uniform(0.8, 1.3)
    frame = materials.ceiling()
    return [
        Part(BOX, (0, 0, 0), (width / 2, height / 2, 0.02), materials.view(height)),
        Part(BOX, (0, 0, -0.01), (0.03, height / 2, 0.03), frame),
        Part(BOX, (0, 0, -0.01), (width / 2, 0.03, 0.03), frame),
        Part(BOX, (0, height / 2, -0.04), (width / 2 + 0.08, 0.05, 0.08), frame),
        Part(BOX, (0, -height / 2, -0.01), (width / 2 + 0.05, 0.05, 0.04), frame),
        Part(BOX, (-width / 2, 0, -0.01), (0.05, height / 2, 0.04), frame),
        Part(BOX, (width / 2, 0, -0.01), (0.05, height / 2, 0.04), frame),
    ]


def rug(materials: Materials) -> list[Part]:
    rng = materials.rng
    half = (rng.uniform(0.6, 1.5), 0.012, rng.uniform(0.5, 1.2))
    return [Part(BOX, (0, -0.012, 0), half, materials.cloth())]


AGAINST_WALLS: tuple[Draw, ...] = (cupboard, shelf, sofa, bed, table)
INDOORS: tuple[Draw, ...] = (
    table, chair, chair, stool, sofa, floor_lamp, plant, crates, vessel, sphere, column, cupboard,
)  # fmt: skip
