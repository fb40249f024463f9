"""Trees, rocks, buildings and other objects of open grounds (axes and units as in shapes.py)."""

from __future__ import annotations

from data.procedural.furniture import Draw, column, crates, plant, sphere, table, vessel
from data.procedural.materials import Materials
from data.procedural.primitives import PRISM
from data.procedural.scene import Material, Part
from data.procedural.shapes import ball, box, pillar, turned


def tree(materials: Materials) -> list[Part]:
    rng = materials.rng
    height, bark, leaves = rng.uniform(1.6, 4.5), materials.wood(), materials.leaves()
    trunk = rng.uniform(0.3, 0.5) * height
    parts = [pillar(0, trunk * 1.2, 0, 0.05 * height, trunk * 1.2, bark, 0.6)]
    if rng.random() < 0.4:
        levels = int(rng.integers(2, 4))
        for i in range(levels):
            radius = 0.26 * height * (1 - 0.25 * i)
            top = trunk + (height - trunk) * (i + 1) / levels
            parts.append(pillar(0, top, 0, radius, 1.3 * (height - trunk) / levels, leaves, 0.05))
        return parts
    for _ in range(int(rng.integers(2, 6))):
        x, z = rng.normal(0, 0.10 * height, 2)
        size = rng.uniform(0.14, 0.26) * height
        y = rng.uniform(trunk, height - size)
        parts.append(ball(x, y, z, (size, size * rng.uniform(0.7, 1.0), size), leaves))
    return parts


def bush(materials: Materials) -> list[Part]:
    rng = materials.rng
    leaves, parts = materials.leaves(), []
    for _ in range(int(rng.integers(1, 5))):
        x, z = rng.normal(0, 0.35, 2)
        size = rng.uniform(0.25, 0.6)
        parts.append(ball(x, 0.6 * size, z, (size, size * rng.uniform(0.7, 1.1), size), leaves))
    return parts


def rock(materials: Materials) -> list[Part]:
    rng = materials.rng
    stone, parts = materials.stone(), []
    for _ in range(int(rng.integers(1, 4))):
        x, z = rng.normal(0, 0.3, 2)
        size = rng.uniform(0.2, 0.7)
        radii = (size * rng.uniform(0.7, 1.4), size * rng.uniform(0.5, 0.9), size)
        part = ball(x, 0.35 * size, z, radii, stone)
        parts.append(
            turned(part, rng.uniform(0, 6), rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4))
        )
    return parts


def house(materials: Materials) -> list[Part]:
    rng = materials.rng
    width, height, length = rng.uniform(3, 7), rng.uniform(2.2, 4.0), rng.uniform(3, 6)
    wall, rise = materials.wall(), rng.uniform(0.8, 2.0)
    parts = [box(0, height, 0, (width, height, length), wall)]
    if rng.random() < 0.75:
        half = (width / 2 + 0.2, rise / 2, length / 2 + 0.3)
        parts.append(Part(PRISM, (0, -height - rise / 2, 0), half, materials.stone()))
    count = int(rng.integers(2, 4))
    frame, pane = materials.paint(), materials.view(1.0)
    pane = Material(pane.texture, pane.tile, (0.35, 0.4, 0.45), glow=0.4)
    for i in range(count):
        x = ((i + 0.5) / count - 0.5) * width
        if i == 1:
            parts.append(box(x, 1.9, -length / 2, (0.9, 1.9, 0.1), materials.wood()))
        else:
            parts.append(box(x, 1.9, -length / 2, (0.9, 1.0, 0.08), frame))
            parts.append(box(x, 1.85, -length / 2, (0.75, 0.9, 0.12), pane))
    return parts


def garden_wall(materials: Materials) -> list[Part]:
    rng = materials.rng
    stone, length, height = materials.stone(), rng.uniform(1.5, 5), rng.uniform(0.5, 1.6)
    return [
        box(0, height, 0, (length, height, 0.25), stone),
        box(0, height + 0.08, 0, (length + 0.1, 0.1, 0.35), materials.stone()),
    ]


def fence(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood, posts, height = materials.wood(), int(rng.integers(3, 6)), rng.uniform(0.7, 1.2)
    step = rng.uniform(0.6, 0.9)
    length = (posts - 1) * step
    parts = [box(0, height * y, 0, (length, 0.1, 0.05), wood) for y in (0.5, 0.92)]
    for i in range(posts):
        parts.append(box(i * step - length / 2, height, 0, (0.09, height, 0.09), wood))
    return parts


def bench(materials: Materials) -> list[Part]:
    rng = materials.rng
    wood, length = materials.wood(), rng.uniform(1.0, 1.8)
    parts = [box(0, 0.45, 0, (length, 0.06, 0.42), wood)]
    parts += [box(x * length, 0.42, 0, (0.08, 0.42, 0.38), materials.stone()) for x in (-0.4, 0.4)]
    if rng.random() < 0.6:
        parts.append(box(0, 0.9, 0.2, (length, 0.36, 0.05), wood))
    return parts


OUTDOORS: tuple[Draw, ...] = (
    tree, tree, bush, bush, rock, rock, crates, vessel, bench, fence, garden_wall, column, table,
    plant, sphere,
)  # fmt: skip
