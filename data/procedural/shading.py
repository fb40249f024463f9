"""How a point of a scene looks: albedo from mip-mapped textures, light, shadow and occlusion.

Surfaces are Lambertian: what a point looks like does not depend on where it is seen from. Light is direct
light from a small area (each ray of a pixel asks another point of it, which makes shadows soft), light
from above and below by the surface's slope, and occlusion near other objects, walls and the floor.
"""

from __future__ import annotations

import math

from numba import njit

from data.procedural.primitives import (
    BOTTOM,
    DOME,
    ELLIPSOID,
    JIT,
    ROOM,
    ROUND,
    TOP,
    canonical_normal,
    surface_coordinates,
)
from data.procedural.rays import is_free, to_canonical
from data.procedural.textures import LEVEL_OFFSETS, LEVEL_SIZES, SIZE

NUM_LEVELS = len(LEVEL_SIZES)


@njit(**JIT)
def _texel(texels, texture, level, u, v):  # type: ignore[no-untyped-def]
    """Bilinear look-up in one level of a pyramid; u, v in [0, 1]."""
    size, start = SIZE >> level, LEVEL_OFFSETS[level]
    x, y = u * size - 0.5, v * size - 0.5
    left, top = math.floor(x), math.floor(y)
    fx, fy = x - left, y - top
    x0, x1 = max(left, 0), min(left + 1, size - 1)
    y0, y1 = max(top, 0) * size + start, min(top + 1, size - 1) * size + start
    a, b = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy)
    c, d = (1.0 - fx) * fy, fx * fy
    i, j, k, m = y0 + x0, y0 + x1, y1 + x0, y1 + x1
    t = texture
    return (
        a * texels[t, i, 0] + b * texels[t, j, 0] + c * texels[t, k, 0] + d * texels[t, m, 0],
        a * texels[t, i, 1] + b * texels[t, j, 1] + c * texels[t, k, 1] + d * texels[t, m, 1],
        a * texels[t, i, 2] + b * texels[t, j, 2] + c * texels[t, k, 2] + d * texels[t, m, 2],
    )


@njit(**JIT)
def _mirrored(u):  # type: ignore[no-untyped-def]
    """A coordinate folded into [0, 1]."""
    return abs(u - 2.0 * math.floor(0.5 * u) - 1.0)


@njit(**JIT)
def _sample(texels, texture, u, v, footprint):  # type: ignore[no-untyped-def]
    """Trilinear look-up; u, v and the size of a ray's spot in tiles."""
    level = math.log2(max(footprint * SIZE, 1e-6))
    level = min(max(level, 0.0), NUM_LEVELS - 1.0)
    fine = min(int(level), NUM_LEVELS - 2)
    share = level - fine
    u, v = _mirrored(u), _mirrored(v)
    r0, g0, b0 = _texel(texels, texture, fine, u, v)
    if share == 0.0:
        return r0, g0, b0
    r1, g1, b1 = _texel(texels, texture, fine + 1, u, v)
    return r0 + share * (r1 - r0), g0 + share * (g1 - g0), b0 + share * (b1 - b0)


@njit(**JIT)
def _albedo(scene, solid, face, x, y, z, nx, ny, nz, spot):  # type: ignore[no-untyped-def]
    """Linear albedo at a canonical point; (nx, ny, nz) is the canonical normal, spot is in metres."""
    end = 1 if face in (TOP, BOTTOM) else 0
    texels, texture = scene.texels, scene.texture[solid, end]
    tile = scene.tile[solid, end]
    hx, hy, hz = scene.half_size[solid, 0], scene.half_size[solid, 1], scene.half_size[solid, 2]
    du, dv = scene.offset[solid, 0], scene.offset[solid, 1]
    if scene.kind[solid] == ELLIPSOID:
        # Three projections, weighted by how squarely each meets the surface: no seam and no poles.
        a, b, c = nx * nx * nx * nx, ny * ny * ny * ny, nz * nz * nz * nz
        total = a + b + c
        px, py, pz = x * hx / tile, y * hy / tile, z * hz / tile
        r0, g0, b0 = _sample(texels, texture, pz + du, py + dv, spot / tile)
        r1, g1, b1 = _sample(texels, texture, px + du, pz + dv, spot / tile)
        r2, g2, b2 = _sample(texels, texture, px + du, py + dv, spot / tile)
        red = (a * r0 + b * r1 + c * r2) / total
        green = (a * g0 + b * g1 + c * g2) / total
        blue = (a * b0 + b * b1 + c * b2) / total
    else:
        u, v = surface_coordinates(face, x, y, z, hx, hy, hz, tile)
        if face != ROUND:
            u += du
        red, green, blue = _sample(texels, texture, u, v + dv, spot / tile)
    tint = scene.tint
    return red * tint[solid, end, 0], green * tint[solid, end, 1], blue * tint[solid, end, 2]


@njit(**JIT)
def _sky(scene, x, y, z):  # type: ignore[no-untyped-def]
    """Colour of the sky at a point of the unit sphere: horizon to zenith, and clouds on a plane overhead."""
    up = max(0.0, -y)
    blend = 1.0 - math.exp(-3.0 * up)
    overhead = 0.35 / (up + 0.12)
    cover, _, _ = _sample(
        scene.texels, scene.cloud_texture, x * overhead, z * overhead, 0.01 * overhead
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
    openness, spheres = 1.0, scene.group_sphere
    if scene.kind[solid] == ROOM:
        for axis in range(3):
            at = x if axis == 0 else (y if axis == 1 else z)
            gap = (1.0 - abs(at)) * scene.half_size[solid, axis]
            if gap > 1e-6:
                openness *= 1.0 - 0.32 * math.exp(-gap / 0.35)
    else:
        above = max(0.0, scene.floor - py)
        openness *= 1.0 - 0.4 * (0.5 + 0.5 * ny) * math.exp(-above / 0.4)
    for group in range(1, len(spheres)):
        dx, dy = spheres[group, 0] - px, spheres[group, 1] - py
        dz = spheres[group, 2] - pz
        square = dx * dx + dy * dy + dz * dz + 1e-9
        radius = 0.75 * spheres[group, 3]
        if square > 16.0 * radius * radius:
            continue
        facing = (dx * nx + dy * ny + dz * nz) / math.sqrt(square)
        if facing > 0.0:
            openness *= 1.0 - 0.55 * facing * min(1.0, radius * radius / square)
    return openness


@njit(**JIT)
def shade(scene, solid, face, t, ox, oy, oz, dx, dy, dz, spot, ray):  # type: ignore[no-untyped-def]
    """Linear colour where a ray meets a solid; spot is the ray's width there [m]."""
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    x, y, z = to_canonical(scene.to_local, solid, px, py, pz)
    if scene.kind[solid] == DOME:
        return _sky(scene, x, y, z)
    cx, cy, cz = canonical_normal(scene.kind[solid], scene.shape[solid], face, x, y, z)
    m = scene.to_local
    nx = m[solid, 0, 0] * cx + m[solid, 1, 0] * cy + m[solid, 2, 0] * cz
    ny = m[solid, 0, 1] * cx + m[solid, 1, 1] * cy + m[solid, 2, 1] * cz
    nz = m[solid, 0, 2] * cx + m[solid, 1, 2] * cy + m[solid, 2, 2] * cz
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    nx, ny, nz = nx / length, ny / length, nz / length
    slant = max(0.04, -(nx * dx + ny * dy + nz * dz))
    red, green, blue = _albedo(scene, solid, face, x, y, z, cx, cy, cz, spot / math.sqrt(slant))
    glow = scene.glow[solid, 1 if face in (TOP, BOTTOM) else 0]
    openness = _openness(scene, solid, x, y, z, px, py, pz, nx, ny, nz)
    light = scene.light_points
    lx, ly, lz = light[ray, 0] - px, light[ray, 1] - py, light[ray, 2] - pz
    far = math.sqrt(lx * lx + ly * ly + lz * lz)
    lx, ly, lz = lx / far, ly / far, lz / far
    direct = max(0.0, nx * lx + ny * ly + nz * lz)
    if direct > 0.0:
        step = 2e-3
        if is_free(
            scene.kind, scene.shape, scene.to_local, scene.group_start, scene.group_sphere,
            px + step * nx, py + step * ny, pz + step * nz, lx, ly, lz, far - step,
        ):  # fmt: skip
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
