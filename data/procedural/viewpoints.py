"""Where the cameras of a clip stand: a first view, a path from it, and extra views near and far.

Drawn by rejection: a view counts only if it is outside every solid, has nothing in its face, and, for
extra views, shows mostly surfaces that the path has seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.procedural.config import SceneConfig
from data.procedural.moves import Move, draw_move, transforms
from data.procedural.scene import SKY_DISTANCE, SceneArrays, clearance
from data.procedural.tracer import trace

Array = NDArray[np.float64]

PROBE_HEIGHT, PROBE_WIDTH = 16, 24
"""Size of the coarse depth maps by which views are judged."""
MEDIAN_DEPTH = (1.8, 9.0)
"""Accepted median depths of the first frame [m]."""
DEPTH_SPREAD = 1.8
"""Least ratio of the first frame's 90th to its 10th percentile of depth: no bare walls."""
NEAREST_SURFACE = 0.3
"""No visible surface is nearer than this, in median depths of the first frame."""
NEAREST_SOLID = 0.12
"""No solid at all, seen or not, is nearer than this, in median depths of the first frame."""
SKY_SHARE = 0.4
"""At most this much of a frame is sky."""
NEAR_OVERLAP, FAR_OVERLAP = 0.88, 0.72
"""Least share of an extra view that shows surfaces the path has seen."""
MOVE_TRIES, VIEW_TRIES = 12, 40


@dataclass(frozen=True)
class Viewpoints:
    """Cameras in metres: the path's, then the near, then the far extra views.

    camera_to_world: `[v 4 4]`; move: name of the path's move; median_depth: that of the first view,
    measured coarsely.
    """

    camera_to_world: Array
    move: str
    median_depth: float


class Probe:
    """Coarse depth maps of a scene through one lens."""

    def __init__(self, scene: SceneArrays, intrinsics: Array, height: int, width: int) -> None:
        self.scene = scene
        scale = np.array([PROBE_WIDTH / width, PROBE_HEIGHT / height, 1.0])
        self.intrinsics = intrinsics * scale[:, None]
        u, v = np.meshgrid(np.arange(PROBE_WIDTH) + 0.5, np.arange(PROBE_HEIGHT) + 0.5)
        pixels = np.stack([u, v, np.ones_like(u)], axis=-1)
        self.rays = pixels @ np.linalg.inv(self.intrinsics).T  # [h w 3], z = 1

    def depth(self, camera_to_world: Array) -> NDArray[np.float32]:
        """z-depth `[v PROBE_HEIGHT PROBE_WIDTH]` of views `[v 4 4]`."""
        size = (PROBE_HEIGHT, PROBE_WIDTH)
        return trace(self.scene, camera_to_world, self.intrinsics, *size, supersampling=0)[1]

    def points(self, camera_to_world: Array, depth: NDArray[np.float32]) -> Array:
        """World points `[n 3]` of one view's depth map."""
        local = (self.rays * depth[..., None]).reshape(-1, 3)
        return local @ camera_to_world[:3, :3].T + camera_to_world[:3, 3]

    def seen_share(
        self, points: Array, camera_to_world: Array, depth: NDArray[np.float32]
    ) -> float:
        """Share of world points `[n 3]` that at least one of the views `[v 4 4]` with depth sees."""
        seen = np.zeros(len(points), dtype=bool)
        for pose, view_depth in zip(camera_to_world, depth, strict=True):
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            z = local[:, 2].clip(1e-6)
            image = local @ self.intrinsics.T
            u, v = image[:, 0] / z, image[:, 1] / z
            inside = (
                (local[:, 2] > 0) & (u >= 0) & (u < PROBE_WIDTH) & (v >= 0) & (v < PROBE_HEIGHT)
            )
            row, column = v[inside].astype(int), u[inside].astype(int)
            seen[inside] |= local[inside, 2] <= 1.08 * view_depth[row, column]
        return float(seen.mean())


def draw_viewpoints(
    rng: np.random.Generator, scene: SceneArrays, intrinsics: Array, config: SceneConfig
) -> Viewpoints | None:
    """Cameras for one clip, or None where this scene offers none in a fair number of tries."""
    probe = Probe(scene, intrinsics, config.height, config.width)
    first = _draw_first(rng)
    first_depth = probe.depth(first[None])[0]
    unit = float(np.median(first_depth))
    if not MEDIAN_DEPTH[0] <= unit <= MEDIAN_DEPTH[1] or _is_poor(first_depth[None], unit):
        return None
    low, high = np.quantile(first_depth, (0.1, 0.9))
    if high < DEPTH_SPREAD * low:
        return None
    path = _draw_path(rng, probe, first, unit, config)
    if path is None:
        return None
    move, path_views = path
    some = path_views[np.linspace(0, len(path_views) - 1, 5).round().astype(int)]
    some_depth = probe.depth(some)
    extras: list[Array] = []
    for index in range(config.num_near + config.num_far):
        is_near = index < config.num_near
        view = None
        for _ in range(VIEW_TRIES):
            draw = _draw_near if is_near else _draw_far
            candidate = draw(rng, first, move, path_views, unit, config)
            if candidate is None or clearance(scene, candidate[None, :3, 3]) < NEAREST_SOLID * unit:
                continue
            depth = probe.depth(candidate[None])
            if _is_poor(depth, unit):
                continue
            least = NEAR_OVERLAP if is_near else FAR_OVERLAP
            if probe.seen_share(probe.points(candidate, depth[0]), some, some_depth) >= least:
                view = candidate
                break
        if view is None:
            return None
        extras.append(view)
    return Viewpoints(np.stack([*path_views, *extras]), move.name, unit)


def path_is_clear(probe: Probe, views: Array, unit: float) -> bool:
    """Whether views `[v 4 4]` along a path are outside every solid and each has something to look at.

    unit: median depth of the first frame [m].
    """
    if clearance(probe.scene, views[:, :3, 3]).min() < NEAREST_SOLID * unit:
        return False
    probes = np.linspace(0, len(views) - 1, 7).round().astype(int)
    return not _is_poor(probe.depth(views[probes]), unit)


def _draw_first(rng: np.random.Generator) -> Array:
    eye = rng.uniform(0.95, 1.65)
    pitch, roll = -math.radians(rng.uniform(-4, 20)), rng.normal(0, 0.015)
    position = np.array([[0.0, -eye, 0.0]])
    yaw = np.array([rng.normal(0, 0.08)])
    return transforms(position, yaw, np.array([pitch]), np.array([roll]))[0]


def _is_poor(depth: NDArray[np.float32], unit: float) -> bool:
    """Whether any of the depth maps `[v h w]` has something too near, too much sky, or half a near wall."""
    nearest = depth.min() < NEAREST_SURFACE * unit
    sky = (depth > 0.6 * SKY_DISTANCE).mean(axis=(1, 2)).max() > SKY_SHARE
    return bool(nearest or sky or np.median(depth, axis=(1, 2)).min() < 0.5 * unit)


def _draw_path(
    rng: np.random.Generator, probe: Probe, first: Array, unit: float, config: SceneConfig
) -> tuple[Move, Array] | None:
    t = np.linspace(0, 1, config.num_frames)
    for _ in range(MOVE_TRIES):
        length = rng.uniform(*config.travel) * unit
        move = draw_move(rng, length, focus=unit * rng.uniform(0.85, 1.4))
        views = first @ move(t)
        if path_is_clear(probe, views, unit):
            return move, views
    return None


def _draw_near(
    rng: np.random.Generator,
    first: Array,
    move: Move,
    path: Array,
    unit: float,
    config: SceneConfig,
) -> Array:
    """A view beside the path, or beside and past either end of it, turned a little."""
    low, high = config.near_offset
    if rng.random() < 0.35:
        t = rng.uniform(-0.15, -0.05) if rng.random() < 0.5 else rng.uniform(1.05, 1.2)
        offset = rng.uniform(low, 0.5 * (low + high))
    else:
        t, offset = rng.uniform(0, 1), rng.uniform(low, high)
    base = (first @ move(np.array([t])))[0]
    return base @ _step(rng, offset * unit, move.focus, look=rng.uniform(0, 1))


def _draw_far(
    rng: np.random.Generator,
    first: Array,
    move: Move,
    path: Array,
    unit: float,
    config: SceneConfig,
) -> Array | None:
    """A view well off the path that looks back at what the path looks at; None if it fell near the path."""
    base = path[int(rng.integers(len(path)))]
    offset = rng.uniform(*config.far_offset) * unit
    view = base @ _step(rng, offset, move.focus, look=rng.uniform(0.8, 1.1))
    gap = np.linalg.norm(path[:, :3, 3] - view[:3, 3], axis=1).min()
    return view if gap >= config.far_offset[0] * unit else None


def _step(rng: np.random.Generator, length: float, focus: float, look: float) -> Array:
    """A step of the given length, mostly sideways, with a turn towards the point `focus` ahead."""
    way = rng.normal(0, 1, 3) * [1.0, 0.55, 0.5]
    way *= length / np.linalg.norm(way)
    yaw = look * math.atan2(-way[0], focus - way[2])
    pitch = look * math.atan2(way[1], math.hypot(way[0], focus - way[2]))
    turn = rng.normal(0, 0.02, 3)
    angles = np.array([[yaw], [pitch], [0.0]]) + turn[:, None]
    return transforms(way[None], angles[0], angles[1], angles[2])[0]
