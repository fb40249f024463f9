"""Ray tracing of a scene into linear colour and exact z-depth.

Surfaces are Lambertian: what a point looks like does not depend on where it is seen from. Light is direct
light from a small area (each ray of a pixel asks another point of it, which makes shadows soft), light
from above and below by the surface's slope, and occlusion near other objects, walls and the floor.

Each pixel is computed by itself in one fixed order, so the result is the same for any number of threads.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from data.procedural.primitives import (
    DOME,
    ELLIPSOID,
    JIT,
    ROOM,
    ROUND,
    TOP,
    BOTTOM,
    canonical_normal,
    intersect,
    surface_coordinates,
)
from data.procedural.scene import SceneArrays
from data.procedural.textures import LEVEL_OFFSETS, LEVEL_SIZES, SIZE

NUM_LEVELS = len(LEVEL_SIZES)
NOWHERE = 1e5
"""Rays end here [m]; the sky is nearer."""


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


@njit(**JIT)
def _trace_rows(scene, poses, lens, supersampling, first, last, colour, depth):  # type: ignore[no-untyped-def]
    height, width = depth.shape[1], depth.shape[2]
    num_rays = supersampling * supersampling
    pixel_angle = 1.0 / (lens[1, 1] * max(supersampling, 1))
    for row in range(first, last):
        view, i = row // height, row % height
        pose = poses[view]
        ox, oy, oz = pose[0, 3], pose[1, 3], pose[2, 3]
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
                dx = (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2]) * cosine
                dy = (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2]) * cosine
                dz = (pose[2, 0] * x + pose[2, 1] * y + pose[2, 2]) * cosine
                t, solid, face = _nearest(scene, ox, oy, oz, dx, dy, dz)
                if ray < 0:
                    depth[view, i, j] = t * cosine
                    continue
                r, g, b = _shade(
                    scene, solid, face, t, ox, oy, oz, dx, dy, dz, t * pixel_angle, ray
                )
                red, green, blue = red + r, green + g, blue + b
            if num_rays > 0:
                colour[view, i, j, 0] = red / num_rays
                colour[view, i, j, 1] = green / num_rays
                colour[view, i, j, 2] = blue / num_rays


@njit(**JIT)
def _local(m, x, y, z):  # type: ignore[no-untyped-def]
    """A world point in canonical space; m is `[3 4]`."""
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3],
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3],
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3],
    )


@njit(**JIT)
def _meet(scene, solid, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    m = scene.to_local[solid]
    x, y, z = _local(m, ox, oy, oz)
    u = m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz
    v = m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz
    w = m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz
    return intersect(scene.kind[solid], scene.shape[solid], x, y, z, u, v, w, limit)


@njit(**JIT)
def _misses_group(sphere, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    """Whether a ray (unit direction) stays clear of a group's sphere up to `limit`."""
    x, y, z, radius = sphere[0] - ox, sphere[1] - oy, sphere[2] - oz, sphere[3]
    along = x * dx + y * dy + z * dz
    if along - radius > limit or along + radius < 0.0:
        return True
    return x * x + y * y + z * z - along * along > radius * radius


@njit(**JIT)
def _nearest(scene, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    best, solid, face = NOWHERE, -1, 0
    for group in range(len(scene.group_sphere)):
        if group > 0 and _misses_group(
            scene.group_sphere[group], ox, oy, oz, dx, dy, dz, best
        ):
            continue
        for p in range(scene.group_start[group], scene.group_start[group + 1]):
            t, f = _meet(scene, p, ox, oy, oz, dx, dy, dz, best)
            if t > 0.0:
                best, solid, face = t, p, f
    return best, solid, face


@njit(**JIT)
def _is_lit(scene, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    for group in range(1, len(scene.group_sphere)):
        if _misses_group(scene.group_sphere[group], ox, oy, oz, dx, dy, dz, limit):
            continue
        for p in range(scene.group_start[group], scene.group_start[group + 1]):
            t, _ = _meet(scene, p, ox, oy, oz, dx, dy, dz, limit)
            if t > 0.0:
                return False
    return True


@njit(**JIT)
def _texel(texels, level, u, v):  # type: ignore[no-untyped-def]
    """Bilinear look-up in one level of a pyramid `[n 3]`; u, v in tiles, mirrored."""
    size, start = SIZE >> level, LEVEL_OFFSETS[level]
    u, v = abs(u % 2.0 - 1.0), abs(v % 2.0 - 1.0)
    x, y = u * size - 0.5, v * size - 0.5
    left, top = int(math.floor(x)), int(math.floor(y))
    fx, fy = x - left, y - top
    x0, x1 = max(left, 0), min(left + 1, size - 1)
    y0, y1 = max(top, 0) * size + start, min(top + 1, size - 1) * size + start
    a, b = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy)
    c, d = (1.0 - fx) * fy, fx * fy
    p, q, r, s = texels[y0 + x0], texels[y0 + x1], texels[y1 + x0], texels[y1 + x1]
    return (
        a * p[0] + b * q[0] + c * r[0] + d * s[0],
        a * p[1] + b * q[1] + c * r[1] + d * s[1],
        a * p[2] + b * q[2] + c * r[2] + d * s[2],
    )


@njit(**JIT)
def _sample(texels, u, v, footprint):  # type: ignore[no-untyped-def]
    """Trilinear look-up; footprint is the size of a ray's spot in tiles."""
    level = math.log2(max(footprint * SIZE, 1e-6))
    level = min(max(level, 0.0), NUM_LEVELS - 1.0)
    fine = min(int(level), NUM_LEVELS - 2)
    share = level - fine
    r0, g0, b0 = _texel(texels, fine, u, v)
    if share < 1e-3:
        return r0, g0, b0
    r1, g1, b1 = _texel(texels, fine + 1, u, v)
    return r0 + share * (r1 - r0), g0 + share * (g1 - g0), b0 + share * (b1 - b0)


@njit(**JIT)
def _albedo(scene, solid, face, x, y, z, nx, ny, nz, spot):  # type: ignore[no-untyped-def]
    """Linear albedo at a canonical point; (nx, ny, nz) is the canonical normal, spot is in metres."""
    end = 1 if (face == TOP or face == BOTTOM) else 0
    texels = scene.texels[scene.texture[solid, end]]
    tile = scene.tile[solid, end]
    half = scene.half_size[solid]
    du, dv = scene.offset[solid, 0], scene.offset[solid, 1]
    if scene.kind[solid] == ELLIPSOID:
        # Three projections, weighted by how squarely each meets the surface: no seam and no poles.
        a, b, c = nx**4, ny**4, nz**4
        total = a + b + c
        px, py, pz = x * half[0] / tile, y * half[1] / tile, z * half[2] / tile
        r0, g0, b0 = _sample(texels, pz + du, py + dv, spot / tile)
        r1, g1, b1 = _sample(texels, px + du, pz + dv, spot / tile)
        r2, g2, b2 = _sample(texels, px + du, py + dv, spot / tile)
        red = (a * r0 + b * r1 + c * r2) / total
        green = (a * g0 + b * g1 + c * g2) / total
        blue = (a * b0 + b * b1 + c * b2) / total
    else:
        u, v = surface_coordinates(face, x, y, z, half[0], half[1], half[2], tile)
        if face != ROUND:
            u += du
        red, green, blue = _sample(texels, u, v + dv, spot / tile)
    tint = scene.tint[solid, end]
    return red * tint[0], green * tint[1], blue * tint[2]


@njit(**JIT)
def _sky(scene, x, y, z):  # type: ignore[no-untyped-def]
    """Colour of the sky at a point of the unit sphere: horizon to zenith, and clouds on a plane overhead."""
    up = max(0.0, -y)
    blend = 1.0 - math.exp(-3.0 * up)
    overhead = 0.35 / (up + 0.12)
    cover, _, _ = _sample(
        scene.texels[scene.cloud_texture], x * overhead, z * overhead, 0.01 * overhead
    )
    cover *= min(1.0, 5.0 * up)
    low, high = scene.sky_horizon, scene.sky_zenith
    red = low[0] + (high[0] - low[0]) * blend
    green = low[1] + (high[1] - low[1]) * blend
    blue = low[2] + (high[2] - low[2]) * blend
    white = 1.15 * max(low[0], low[1], low[2])
    return (
        red + (white - red) * 0.7 * cover,
        green + (white - green) * 0.7 * cover,
        blue + (white - blue) * 0.7 * cover,
    )


@njit(**JIT)
def _openness(scene, solid, x, y, z, px, py, pz, nx, ny, nz):  # type: ignore[no-untyped-def]
    """Share of ambient light that reaches a world point p: less near walls, floor and other objects.

    (x, y, z): the point in canonical space; (nx, ny, nz): world normal.
    """
    openness = 1.0
    if scene.kind[solid] == ROOM:
        half = scene.half_size[solid]
        for axis in range(3):
            at = x if axis == 0 else (y if axis == 1 else z)
            gap = (1.0 - abs(at)) * half[axis]
            if gap > 1e-6:
                openness *= 1.0 - 0.32 * math.exp(-gap / 0.35)
    else:
        above = max(0.0, scene.floor - py)
        openness *= 1.0 - 0.4 * (0.5 + 0.5 * ny) * math.exp(-above / 0.4)
    for group in range(1, len(scene.group_sphere)):
        sphere = scene.group_sphere[group]
        dx, dy, dz = sphere[0] - px, sphere[1] - py, sphere[2] - pz
        square = dx * dx + dy * dy + dz * dz + 1e-9
        radius = 0.75 * sphere[3]
        if square > 16.0 * radius * radius:
            continue
        facing = (dx * nx + dy * ny + dz * nz) / math.sqrt(square)
        if facing > 0.0:
            openness *= 1.0 - 0.55 * facing * min(1.0, radius * radius / square)
    return openness


@njit(**JIT)
def _shade(scene, solid, face, t, ox, oy, oz, dx, dy, dz, spot, ray):  # type: ignore[no-untyped-def]
    """Linear colour where a ray meets a solid; spot is the ray's width there [m]."""
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    m = scene.to_local[solid]
    x, y, z = _local(m, px, py, pz)
    if scene.kind[solid] == DOME:
        return _sky(scene, x, y, z)
    cx, cy, cz = canonical_normal(scene.kind[solid], scene.shape[solid], face, x, y, z)
    nx = m[0, 0] * cx + m[1, 0] * cy + m[2, 0] * cz
    ny = m[0, 1] * cx + m[1, 1] * cy + m[2, 1] * cz
    nz = m[0, 2] * cx + m[1, 2] * cy + m[2, 2] * cz
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    nx, ny, nz = nx / length, ny / length, nz / length
    slant = max(0.04, -(nx * dx + ny * dy + nz * dz))
    red, green, blue = _albedo(
        scene, solid, face, x, y, z, cx, cy, cz, spot / math.sqrt(slant)
    )
    glow = scene.glow[solid, 1 if (face == TOP or face == BOTTOM) else 0]
    openness = _openness(scene, solid, x, y, z, px, py, pz, nx, ny, nz)
    light = scene.light_points[ray]
    lx, ly, lz = light[0] - px, light[1] - py, light[2] - pz
    far = math.sqrt(lx * lx + ly * ly + lz * lz)
    lx, ly, lz = lx / far, ly / far, lz / far
    direct = max(0.0, nx * lx + ny * ly + nz * lz)
    if direct > 0.0:
        step = 2e-3
        if _is_lit(
            scene, px + step * nx, py + step * ny, pz + step * nz, lx, ly, lz, far - step
        ):
            direct *= 1.0 / (1.0 + (far / scene.light_reach) ** 2)
        else:
            direct = 0.0
    above = 0.5 - 0.5 * ny
    kept = 1.0 - glow
    up, down, lamp = scene.ambient_above, scene.ambient_below, scene.light_colour
    r = direct * lamp[0] + openness * (down[0] + (up[0] - down[0]) * above)
    g = direct * lamp[1] + openness * (down[1] + (up[1] - down[1]) * above)
    b = direct * lamp[2] + openness * (down[2] + (up[2] - down[2]) * above)
    return red * (glow + kept * r), green * (glow + kept * g), blue * (glow + kept * b)
