"""A scene: solids in groups with materials, light and sky, as flat arrays that the tracer reads.

World axes are a level camera's: x right, y down, z ahead; lengths in metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.procedural import primitives, textures

Vector = NDArray[np.float64]
Number = int | float
Triple = tuple[Number, Number, Number] | Vector
SKY_DISTANCE = 40.0
"""Radius of the sky, a sphere around the world's origin [m]: far, and finite like everything else."""


@dataclass(frozen=True)
class Material:
    """How a surface looks. tint scales the texture's linear albedo; tile is the size of a texture tile [m]."""

    texture: int
    tile: Number = 1.0
    tint: Triple = (1.0, 1.0, 1.0)
    glow: Number = 0.0
    """Share of light that the surface gives by itself, whatever falls on it."""


@dataclass(frozen=True)
class Part:
    """One solid of an object, in the object's axes (origin on the floor, y down)."""

    kind: int
    centre: Triple
    half_size: Triple
    material: Material
    ends: Material | None = None
    """Material of top and bottom, where it differs."""
    rotation: Vector | None = None
    """Solid to object, `[3 3]`; None is upright."""
    shape: Number = 1.0
    """Top radius of a frustum, as a share of its bottom radius."""


class SceneArrays(NamedTuple):
    """p solids, g groups, s light points, n textures."""

    kind: NDArray[np.int64]  # [p]
    shape: NDArray[np.float64]  # [p]
    to_local: NDArray[np.float64]  # [p 3 4] world to canonical
    half_size: NDArray[np.float64]  # [p 3]
    texture: NDArray[np.int64]  # [p 2] sides; top and bottom
    tile: NDArray[np.float64]  # [p 2]
    tint: NDArray[np.float64]  # [p 2 3]
    glow: NDArray[np.float64]  # [p 2]
    offset: NDArray[np.float64]  # [p 2] in tiles
    group_start: NDArray[np.int64]  # [g + 1] solids of group i are start[i] .. start[i + 1]
    group_sphere: NDArray[
        np.float64
    ]  # [g 4] centre, radius; group 0 is the backdrop, without bounds
    texels: NDArray[np.float32]  # [n NUM_TEXELS 3] linear
    light_points: NDArray[np.float64]  # [s 3] one for each ray of a pixel, in turn
    light_colour: NDArray[np.float64]  # [3]
    light_reach: float  # distance at which its strength has halved
    ambient_above: NDArray[np.float64]  # [3]
    ambient_below: NDArray[np.float64]  # [3]
    sky_horizon: NDArray[np.float64]  # [3]
    sky_zenith: NDArray[np.float64]  # [3]
    cloud_texture: int
    floor: float  # y of the floor


@dataclass
class Light:
    """A lamp or the sun: a small square of light at `centre`, facing down."""

    centre: Vector
    radius: float
    colour: Vector
    reach: float
    ambient_above: Vector
    ambient_below: Vector


@dataclass
class Sky:
    horizon: Vector = field(default_factory=lambda: np.full(3, 0.7))
    zenith: Vector = field(default_factory=lambda: np.full(3, 0.5))
    cloud_texture: int = 0


@dataclass
class SceneBuilder:
    """Collects textures, a backdrop (room, ground, sky) and groups of parts."""

    rng: np.random.Generator
    floor: float = 0.0
    pyramids: list[NDArray[np.float32]] = field(default_factory=list)
    groups: list[list[Part]] = field(default_factory=lambda: [[]])
    placements: list[tuple[Vector, Vector]] = field(
        default_factory=lambda: [(np.eye(3), np.zeros(3))]
    )

    def add_texture(self, texture: textures.Array, *, is_colour: bool = True) -> int:
        """Index of a `[SIZE SIZE 3]` texture, drawn in sRGB (or data, when not a colour)."""
        linear = textures.albedo(texture) if is_colour else texture
        self.pyramids.append(textures.mip_pyramid(linear))
        return len(self.pyramids) - 1

    def add_backdrop(self, part: Part) -> None:
        """Adds what surrounds everything; it throws no shadow and needs no bounds."""
        self.groups[0].append(part)

    def place(self, parts: Sequence[Part], position: Vector, yaw: Number = 0.0) -> None:
        """Adds an object with its origin at `position`, turned by `yaw` [rad] about the vertical."""
        self.groups.append(list(parts))
        self.placements.append((rotation(yaw), np.asarray(position, dtype=np.float64)))

    def build(self, light: Light, sky: Sky, rays_per_side: int) -> SceneArrays:
        """The arrays; `rays_per_side` squared points are spread over the light."""
        parts = [part for group in self.groups for part in group]
        lengths = [len(group) for group in self.groups]
        poses = [pose for pose, n in zip(self.placements, lengths, strict=True) for _ in range(n)]
        solids = [_pose(part, *pose) for part, pose in zip(parts, poses, strict=True)]
        to_local = np.stack([_to_local(*solid) for solid in solids])
        ends = [part.ends or part.material for part in parts]
        pairs = [(part.material, end) for part, end in zip(parts, ends, strict=True)]
        spheres, start = np.zeros((len(lengths), 4)), np.cumsum([0, *lengths])
        for i in range(1, len(lengths)):
            spheres[i] = _bounding_sphere(solids[start[i] : start[i + 1]])
        return SceneArrays(
            kind=np.array([part.kind for part in parts], dtype=np.int64),
            shape=np.array([part.shape for part in parts], dtype=np.float64),
            to_local=to_local,
            half_size=np.array([part.half_size for part in parts], dtype=np.float64),
            texture=np.array([[m.texture for m in pair] for pair in pairs], dtype=np.int64),
            tile=np.array([[m.tile for m in pair] for pair in pairs], dtype=np.float64),
            tint=np.array([[m.tint for m in pair] for pair in pairs], dtype=np.float64),
            glow=np.array([[m.glow for m in pair] for pair in pairs], dtype=np.float64),
            offset=self.rng.random((len(parts), 2)),
            group_start=start.astype(np.int64),
            group_sphere=spheres,
            texels=np.stack(self.pyramids),
            light_points=_light_points(light, rays_per_side),
            light_colour=light.colour,
            light_reach=light.reach,
            ambient_above=light.ambient_above,
            ambient_below=light.ambient_below,
            sky_horizon=sky.horizon,
            sky_zenith=sky.zenith,
            cloud_texture=sky.cloud_texture,
            floor=self.floor,
        )


def rotation(yaw: Number, pitch: Number = 0.0, roll: Number = 0.0) -> Vector:
    """Local to world `[3 3]` for angles in radians: yaw turns ahead to the right, pitch turns it up."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def clearance(scene: SceneArrays, points: Vector) -> Vector:
    """Distance [m] from each point `[n 3]` to the nearest solid, at most the true one; negative inside.

    Round solids count as the boxes around them, except ellipsoids, whose bound is that of a ball.
    """
    local = np.einsum("pij,nj->pni", scene.to_local[:, :, :3], points)
    local += scene.to_local[:, None, :, 3]
    half = scene.half_size[:, None, :]
    beyond = (np.abs(local) - 1) * half
    box = np.linalg.norm(beyond.clip(min=0), axis=-1) + beyond.max(axis=-1).clip(max=0)
    radius = np.linalg.norm(local, axis=-1)
    ball = (radius - 1) * half.min(axis=-1)
    kind = scene.kind[:, None]
    widest = np.maximum(1.0, scene.shape)[:, None]
    wide = np.where(kind == primitives.FRUSTUM, widest, 1.0)[..., None] * [1, 0, 1] + [0, 1, 0]
    beyond = (np.abs(local) - wide) * half
    frustum = np.linalg.norm(beyond.clip(min=0), axis=-1) + beyond.max(axis=-1).clip(max=0)
    distance = np.select(
        [
            kind == primitives.PLANE,
            kind == primitives.ELLIPSOID,
            kind == primitives.FRUSTUM,
            kind == primitives.ROOM,
            kind == primitives.DOME,
        ],
        [-local[..., 1] * half[..., 1], ball, frustum, -box, -ball],
        default=box,
    )
    return distance.min(axis=0)


def _pose(part: Part, turn: Vector, position: Vector) -> tuple[Part, Vector, Vector]:
    """A part with its solid-to-world rotation and its centre in the world."""
    own = np.eye(3) if part.rotation is None else part.rotation
    return part, turn @ own, turn @ np.asarray(part.centre, dtype=np.float64) + position


def _to_local(part: Part, turn: Vector, centre: Vector) -> Vector:
    linear = turn.T / np.asarray(part.half_size, dtype=np.float64)[:, None]
    return np.concatenate([linear, -(linear @ centre)[:, None]], axis=1)


def _bounding_sphere(solids: Sequence[tuple[Part, Vector, Vector]]) -> Vector:
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1)
    corners = []
    for part, turn, centre in solids:
        half = np.asarray(part.half_size, dtype=np.float64)
        if part.kind == primitives.FRUSTUM:
            half = half * [max(1.0, part.shape), 1, max(1.0, part.shape)]
        corners.append((turn @ (signs * half[:, None])).T + centre)
    points = np.concatenate(corners)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return np.array([*middle, np.linalg.norm(points - middle, axis=1).max() + 1e-6])


def _light_points(light: Light, per_side: int) -> Vector:
    """A square grid over the light, turned a little so that penumbrae do not align with walls."""
    steps = (np.arange(per_side) + 0.5) / per_side * 2 - 1
    x, z = np.meshgrid(steps, steps)
    if per_side == 1:
        x, z = np.zeros((1, 1)), np.zeros((1, 1))
    turn = 0.4
    square = np.stack(
        [x * math.cos(turn) - z * math.sin(turn), 0 * x, x * math.sin(turn) + z * math.cos(turn)],
        -1,
    )
    return light.centre + light.radius * square.reshape(-1, 3)
