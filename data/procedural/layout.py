"""Where things stand: rooms and open grounds, with their light and sky.

A scene is laid out for a camera somewhere above the world's origin that looks roughly along +z; nothing
stands around that spot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data.procedural import furniture, outdoors, textures
from data.procedural.materials import Materials
from data.procedural.primitives import BOX, DOME, ELLIPSOID, PLANE, ROOM
from data.procedural.scene import (
    SKY_DISTANCE,
    Light,
    Material,
    Part,
    SceneArrays,
    SceneBuilder,
    Sky,
    Vector,
    rotation,
)
from data.procedural.shapes import footprint

KEEP_FREE = 0.9
"""Radius around the origin in which nothing stands [m]."""


@dataclass(frozen=True)
class Footprints:
    """Circles on the floor that are taken."""

    circles: list[tuple[float, float, float]]

    def is_free(self, x: float, z: float, radius: float, slack: float = 0.85) -> bool:
        """Whether a new circle keeps clear of the others, up to a little overlap of their rims."""
        return all(math.hypot(x - cx, z - cz) > slack * (radius + r) for cx, cz, r in self.circles)

    def take(self, x: float, z: float, radius: float) -> None:
        self.circles.append((x, z, radius))


def draw_scene(
    rng: np.random.Generator, *, is_room: bool, view_half_angle: float, rays_per_side: int
) -> SceneArrays:
    """A room or an open ground whose objects stand within about `view_half_angle` [rad] of ahead."""
    builder = SceneBuilder(rng)
    materials = Materials(builder)
    taken = Footprints([(0.0, 0.0, KEEP_FREE)])
    if is_room:
        light, sky = _room(builder, materials, taken, view_half_angle)
    else:
        light, sky = _open_ground(builder, materials, taken, view_half_angle)
    return builder.build(light, sky, rays_per_side)


def _room(
    builder: SceneBuilder, materials: Materials, taken: Footprints, half_angle: float
) -> tuple[Light, Sky]:
    rng = builder.rng
    half = np.array([rng.uniform(1.9, 4.2), rng.uniform(1.2, 1.7), rng.uniform(2.3, 4.6)])
    yaw = rng.normal(0, 0.35)
    turn = rotation(yaw)
    # The camera stands in the rear part of the room and looks into it.
    stand = np.array([rng.uniform(-0.45, 0.45), 0.0, -rng.uniform(0.35, 0.7)]) * half
    centre = turn @ -stand + np.array([0, -half[1], 0])
    builder.add_backdrop(
        Part(ROOM, centre, half, materials.wall(), materials.floor(), rotation=turn)
    )
    under_roof, slab = centre - [0, half[1], 0], np.array([half[0], 0.02, half[2]])
    builder.add_backdrop(Part(BOX, under_roof, slab, materials.ceiling(), rotation=turn))
    _furnish_walls(builder, materials, taken, centre, half, yaw)
    _hang_pictures(builder, materials, centre, half, yaw)
    wanted = int(rng.integers(3, 9))
    for _ in range(wanted * 4):
        if wanted == 0:
            break
        x, z = _spot_in_view(rng, half_angle, 1.5, 1.2 * half[2] + 1.5)
        if _stand(builder, materials, taken, furniture.INDOORS, x, z, centre, half, turn):
            wanted -= 1
    if rng.random() < 0.6:
        x, z = _spot_in_view(rng, 0.5 * half_angle, 1.5, 3.5)
        builder.place(furniture.rug(materials), np.array([x, 0, z]), yaw)
    lamp = centre + turn @ (half * [rng.uniform(-0.5, 0.5), 0, rng.uniform(-0.5, 0.6)])
    lamp[1] = -2 * half[1] + 0.3
    warm = np.array([1.0, rng.uniform(0.86, 0.97), rng.uniform(0.7, 0.92)])
    strength = rng.uniform(0.7, 1.5)
    ambient = rng.uniform(0.35, 0.65)
    cool = np.array([rng.uniform(0.88, 1.0), 0.97, rng.uniform(0.95, 1.08)])
    light = Light(
        centre=lamp,
        radius=rng.uniform(0.15, 0.5),
        colour=2.2 * strength * warm,
        reach=rng.uniform(2.0, 4.0),
        ambient_above=ambient * cool,
        ambient_below=ambient * rng.uniform(0.55, 0.8) * warm,
    )
    return light, Sky()


def _stand(
    builder: SceneBuilder,
    materials: Materials,
    taken: Footprints,
    choices: tuple[furniture.Draw, ...],
    x: float,
    z: float,
    centre: Vector | None = None,
    half: Vector | None = None,
    turn: Vector | None = None,
) -> bool:
    """Puts one object at (x, z) if there is space, inside the room if one is given."""
    rng = builder.rng
    draw = choices[int(rng.integers(len(choices)))]
    parts = draw(materials)
    radius = footprint(parts)
    if not taken.is_free(x, z, radius):
        return False
    if centre is not None and half is not None and turn is not None:
        inside = turn.T @ (np.array([x, 0, z]) - centre)
        if abs(inside[0]) > half[0] - radius or abs(inside[2]) > half[2] - radius:
            return False
    taken.take(x, z, radius)
    builder.place(parts, np.array([x, 0, z]), rng.uniform(0, 2 * math.pi))
    return True


def _spot_in_view(
    rng: np.random.Generator, half_angle: float, nearest: float, farthest: float
) -> tuple[float, float]:
    """A place on the floor ahead, evenly spread over inverse-square-root distance."""
    share = rng.random()
    distance = (math.sqrt(nearest) + share * (math.sqrt(farthest) - math.sqrt(nearest))) ** 2
    angle = half_angle * rng.uniform(-1.15, 1.15)
    return distance * math.tan(angle), distance


def _furnish_walls(
    builder: SceneBuilder,
    materials: Materials,
    taken: Footprints,
    centre: Vector,
    half: Vector,
    yaw: float,
) -> None:
    """Cupboards, shelves, sofas with their backs to the far and side walls."""
    rng, turn = builder.rng, rotation(yaw)
    for _ in range(int(rng.integers(1, 5))):
        draw = furniture.AGAINST_WALLS[int(rng.integers(len(furniture.AGAINST_WALLS)))]
        parts = draw(materials)
        back = max(part.centre[2] + part.half_size[2] for part in parts)
        side = max(abs(part.centre[0]) + part.half_size[0] for part in parts)
        for _ in range(4):
            wall = int(rng.choice([0, 0, 1, 2]))  # far, right, left
            along = half[0] if wall == 0 else half[2]
            away = half[2] if wall == 0 else half[0]
            if along < side + 0.1:
                continue
            at = rng.uniform(-1, 1) * (along - side - 0.05)
            quarter = (0.0, math.pi / 2, -math.pi / 2)[wall]
            local = rotation(quarter) @ np.array([at, 0, away - back - 0.01])
            spot = turn @ local + centre
            if taken.is_free(spot[0], spot[2], side, slack=0.8):
                taken.take(spot[0], spot[2], side)
                builder.place(parts, np.array([spot[0], 0, spot[2]]), yaw + quarter)
                break


def _hang_pictures(
    builder: SceneBuilder, materials: Materials, centre: Vector, half: Vector, yaw: float
) -> None:
    """Pictures and windows on the far and side walls, with gaps between them."""
    rng, turn = builder.rng, rotation(yaw)
    for wall in range(3):
        along = half[0] if wall == 0 else half[2]
        away = half[2] if wall == 0 else half[0]
        quarter = (0.0, math.pi / 2, -math.pi / 2)[wall]
        at = -along + rng.uniform(0.9, 2.0)
        while at < along - 0.8:
            draw = furniture.picture if rng.random() < 0.55 else furniture.window
            height = half[1] * rng.uniform(-0.35, 0.0)
            local = rotation(quarter) @ np.array([at, height, away - 0.005])
            builder.place(draw(materials), turn @ local + centre, yaw + quarter)
            at += rng.uniform(1.6, 3.5)


def _open_ground(
    builder: SceneBuilder, materials: Materials, taken: Footprints, half_angle: float
) -> tuple[Light, Sky]:
    rng = builder.rng
    flat = rotation(rng.uniform(0, 2 * math.pi))
    builder.add_backdrop(Part(PLANE, (0, 0, 0), (1.0, 1.0, 1.0), materials.ground(), rotation=flat))
    cover = builder.add_texture(textures.clouds(rng), is_colour=False)
    far = (SKY_DISTANCE, SKY_DISTANCE, SKY_DISTANCE)
    builder.add_backdrop(Part(DOME, (0, 0, 0), far, Material(cover)))
    _distant_hills(builder, materials)
    wanted = int(rng.integers(0, 4))
    for _ in range(wanted):
        x, z = _spot_in_view(rng, half_angle, 7.0, 20.0)
        parts = outdoors.house(materials)
        radius = footprint(parts)
        if math.hypot(x, z) > radius + 4.0 and taken.is_free(x, z, radius):
            taken.take(x, z, radius)
            builder.place(parts, np.array([x, 0, z]), rng.normal(0, 0.6))
    wanted = int(rng.integers(6, 16))
    for _ in range(wanted * 3):
        if wanted == 0:
            break
        x, z = _spot_in_view(rng, half_angle, 1.8, 16.0)
        if _stand(builder, materials, taken, outdoors.OUTDOORS, x, z):
            wanted -= 1
    return _sunlight(rng), _draw_sky(rng, cover)


def _distant_hills(builder: SceneBuilder, materials: Materials) -> None:
    rng = builder.rng
    for _ in range(int(rng.integers(2, 6))):
        angle, distance = rng.uniform(-1.0, 1.0), rng.uniform(20.0, 32.0)
        radii = (rng.uniform(6, 14), rng.uniform(1.5, 6.0), rng.uniform(4, 8))
        leaves = materials.leaves()
        hazy = tuple(0.5 * channel + 0.25 for channel in leaves.tint)
        material = Material(leaves.texture, 6.0, (hazy[0], hazy[1], hazy[2]))
        centre = (distance * math.sin(angle), 0.5, distance * math.cos(angle))
        builder.add_backdrop(Part(ELLIPSOID, centre, radii, material, rotation=rotation(angle)))


def _sunlight(rng: np.random.Generator) -> Light:
    """The sun, high or low; every fourth sky is overcast, with faint and wide shadows."""
    height = math.radians(rng.uniform(25, 65))
    bearing = rng.uniform(0, 2 * math.pi)
    towards = np.array(
        [
            math.cos(height) * math.sin(bearing),
            -math.sin(height),
            math.cos(height) * math.cos(bearing),
        ]
    )
    overcast = rng.random() < 0.25
    warm = np.array([1.0, rng.uniform(0.9, 0.98), rng.uniform(0.78, 0.95)])
    ambient = rng.uniform(0.75, 0.95) if overcast else rng.uniform(0.35, 0.55)
    distance = 200.0
    return Light(
        centre=distance * towards,
        radius=distance * (0.15 if overcast else rng.uniform(0.01, 0.05)),
        colour=(0.4 if overcast else rng.uniform(1.4, 2.2)) * warm,
        reach=20 * distance,
        ambient_above=ambient * np.array([0.9, 0.98, 1.1]),
        ambient_below=0.5 * ambient * warm,
    )


def _draw_sky(rng: np.random.Generator, cover: int) -> Sky:
    haze = rng.uniform(1.0, 1.7)
    horizon = haze * np.array([0.80, 0.86, 0.92]) * rng.uniform(0.9, 1.05, 3)
    zenith = horizon * np.array([0.36, 0.55, 0.85]) * rng.uniform(0.75, 1.2)
    return Sky(horizon, zenith, cover)
