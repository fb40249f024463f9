"""Ray tracing of a scene into linear colour and exact z-depth.

Each pixel is computed by itself in one fixed order, so the result is the same for any number of threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from data.procedural.primitives import JIT
from data.procedural.rays import nearest
from data.procedural.scene import SceneArrays
from data.procedural.shading import shade

COMPILED_FROM = ("primitives.py", "rays.py", "shading.py", "scene.py", "textures.py")


def trace(
    scene: SceneArrays,
    camera_to_world: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    height: int,
    width: int,
    *,
    supersampling: int,
    num_threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Linear colour `[v h w 3]` (no upper bound) and z-depth of pixel centres `[v h w]`, in metres.

    camera_to_world: `[v 4 4]`; intrinsics: `[3 3]`, pixels, shared by all views.
    supersampling: rays a pixel along each side; 0 leaves the colour black and only measures depth.
    """
    assert supersampling**2 <= len(scene.light_points), "each ray of a pixel has its light point"
    num_views = len(camera_to_world)
    colour = np.zeros((num_views, height, width, 3), dtype=np.float32)
    depth = np.zeros((num_views, height, width), dtype=np.float32)
    poses = np.ascontiguousarray(camera_to_world, dtype=np.float64)
    lens = np.ascontiguousarray(intrinsics, dtype=np.float64)

    def trace_share(first: int, last: int) -> None:
        _trace_rows(scene, poses, lens, supersampling, first, last, colour, depth)

    num_rows = num_views * height
    if num_threads == 1:
        trace_share(0, num_rows)
    else:
        bounds = np.linspace(0, num_rows, 4 * num_threads + 1).astype(int)
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(trace_share, bounds[:-1], bounds[1:]))
    return colour, depth


def _compile_kernel(sources: int) -> Callable[..., None]:
    """The kernel that traces rows first .. last of all views' rows; compiled at its first call.

    numba caches it on disk but only looks at the file it is in, not at those of the functions that it
    calls. `sources`, a digest of all of them, is part of what the cache goes by, as any captured value is.
    """

    @njit(cache=True, **JIT)
    def trace_rows(scene, poses, lens, supersampling, first, last, colour, depth):  # type: ignore[no-untyped-def]
        _ = sources
        height, width = depth.shape[1], depth.shape[2]
        kind, shape, to_local = scene.kind, scene.shape, scene.to_local
        start, spheres = scene.group_start, scene.group_sphere
        num_rays = supersampling * supersampling
        pixel_angle = 1.0 / (lens[1, 1] * max(supersampling, 1))
        for row in range(first, last):
            view, i = row // height, row % height
            ox, oy, oz = poses[view, 0, 3], poses[view, 1, 3], poses[view, 2, 3]
            for j in range(width):
                red, green, blue = 0.0, 0.0, 0.0
                for ray in range(-1, num_rays):
                    if ray < 0:
                        u, v = j + 0.5, i + 0.5
                    else:
                        u = j + (ray % supersampling + 0.5) / supersampling
                        v = i + (ray // supersampling + 0.5) / supersampling
                    x = (u - lens[0, 2]) / lens[0, 0]
                    y = (v - lens[1, 2]) / lens[1, 1]
                    cosine = 1.0 / math.sqrt(x * x + y * y + 1.0)
                    x, y = x * cosine, y * cosine
                    dx = poses[view, 0, 0] * x + poses[view, 0, 1] * y + poses[view, 0, 2] * cosine
                    dy = poses[view, 1, 0] * x + poses[view, 1, 1] * y + poses[view, 1, 2] * cosine
                    dz = poses[view, 2, 0] * x + poses[view, 2, 1] * y + poses[view, 2, 2] * cosine
                    t, solid, face = nearest(
                        kind, shape, to_local, start, spheres, ox, oy, oz, dx, dy, dz
                    )
                    if ray < 0:
                        depth[view, i, j] = t * cosine
                        continue
                    r, g, b = shade(
                        scene, solid, face, t, ox, oy, oz, dx, dy, dz, t * pixel_angle, ray
                    )
                    red, green, blue = red + r, green + g, blue + b
                if num_rays > 0:
                    colour[view, i, j, 0] = red / num_rays
                    colour[view, i, j, 1] = green / num_rays
                    colour[view, i, j, 2] = blue / num_rays

    return trace_rows


def _digest_of_sources() -> int:
    folder = Path(__file__).parent
    texts = [(folder / name).read_bytes() for name in COMPILED_FROM]
    return int.from_bytes(hashlib.sha256(b"".join(texts)).digest()[:6], "big")


_trace_rows = _compile_kernel(_digest_of_sources())
