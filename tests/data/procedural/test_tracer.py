"""The tracer: exact depth, shadows where they belong, textures that average as they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data.procedural.primitives import BOX, ELLIPSOID, PLANE
from data.procedural.scene import Light, Material, Part, SceneBuilder, Sky, clearance, rotation
from data.procedural.textures import SIZE
from data.procedural.tracer import trace

LENS = np.array([[40.0, 0, 24.0], [0, 40.0, 16.0], [0, 0, 1]])
SIZE_PX = (32, 48)


def build(parts, *, texture=None, light=None, ambient=0.0, rays=1):
    """A scene on a plane at y = 0 with one object made of `parts`, all of one material."""
    builder = SceneBuilder(np.random.default_rng(0))
    grey = np.full((SIZE, SIZE, 3), 0.7) if texture is None else texture
    material = Material(builder.add_texture(grey))
    builder.add_backdrop(Part(PLANE, (0, 0, 0), (1, 1, 1), material))
    builder.add_backdrop(Part(BOX, (0, 0, 50), (60, 60, 1), material))
    if parts:
        builder.place([part(material) for part in parts], np.zeros(3))
    light = light or Light(np.array([0, -9.0, 0]), 0.0, np.ones(3), 1e6, np.zeros(3), np.zeros(3))
    light.ambient_above = light.ambient_below = np.full(3, ambient)
    return builder.build(light, Sky(), rays)


def camera(yaw=0.0, pitch=0.0, at=(0.0, -1.5, 0.0)):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation(yaw, pitch), at
    return result


def test_depth_is_exact_for_plane_ball_and_tilted_box():
    turn, half, middle = (
        rotation(0.5, 0.2, 0.1),
        np.array([0.5, 0.4, 0.3]),
        np.array([1.0, -1.2, 4.0]),
    )
    scene = build(
        [
            lambda m: Part(ELLIPSOID, (-1.0, -1.0, 5.0), (0.8, 0.8, 0.8), m),
            lambda m: Part(BOX, middle, half, m, rotation=turn),
        ]
    )
    pose = camera(0.05, -0.15)
    depth = trace(scene, pose[None], LENS, *SIZE_PX, supersampling=0)[1][0]
    origin = pose[:3, 3]
    for i in range(SIZE_PX[0]):
        for j in range(SIZE_PX[1]):
            local = np.array([(j + 0.5 - 24) / 40, (i + 0.5 - 16) / 40, 1.0])
            ray = pose[:3, :3] @ local
            hits = [49.0 / ray[2]]
            if ray[1] > 0:
                hits.append(1.5 / ray[1])
            offset = origin - [-1.0, -1.0, 5.0]
            a, b, c = ray @ ray, offset @ ray, offset @ offset - 0.64
            if b * b > a * c:
                hits.append((-b - math.sqrt(b * b - a * c)) / a)
            o, d = turn.T @ (origin - middle), turn.T @ ray
            near, far = np.sort([(-half - o) / d, (half - o) / d], axis=0)
            if near.max() < far.min():
                hits.append(near.max())
            # The ray has z = 1 in the camera's axes, so its parameter is z-depth.
            assert depth[i, j] == pytest.approx(min(hits), rel=1e-6)


def test_light_falls_off_with_slope_and_shadows_are_black_without_ambient_light():
    slab = lambda m: Part(BOX, (0, -2.0, 4.0), (0.5, 0.05, 0.5), m)  # noqa: E731
    light = Light(np.array([0, -900.0, 4.0]), 0.0, np.ones(3), 1e9, np.zeros(3), np.zeros(3))
    pose = camera(0, -0.4)[None]
    lit = trace(build([], light=light), pose, LENS, *SIZE_PX, supersampling=1)[0][0]
    dark = trace(build([slab], light=light), pose, LENS, *SIZE_PX, supersampling=1)[0][0]
    depth = trace(build([], light=light), pose, LENS, *SIZE_PX, supersampling=0)[1][0]
    v, u = np.mgrid[0:32, 0:48] + 0.5
    rays = np.stack([(u - 24) / 40, (v - 16) / 40, np.ones_like(u)], -1) @ pose[0, :3, :3].T
    points = rays * depth[..., None] + pose[0, :3, 3]
    on_ground = np.abs(points[..., 1]) < 1e-3
    # The sun is straight above, so the ground is lit in full and the shadow lies right below the slab.
    np.testing.assert_allclose(lit[on_ground & (depth < 8)], 0.7**2.2, rtol=1e-3)
    below = on_ground & (np.abs(points[..., 0]) < 0.45) & (np.abs(points[..., 2] - 4) < 0.45)
    assert below.sum() > 20
    seen = dark[below].max(axis=-1)
    assert np.sort(seen)[: len(seen) // 2].max() == 0
    beside = on_ground & (np.abs(points[..., 0]) > 0.6) & (depth < 8)
    np.testing.assert_allclose(dark[beside], lit[beside], rtol=1e-6)


def test_a_wide_light_makes_soft_shadows():
    slab = lambda m: Part(BOX, (0, -2.0, 4.0), (0.5, 0.05, 0.5), m)  # noqa: E731
    pose = camera(0, -0.4)[None]
    shades = []
    for radius in (0.0, 40.0):
        light = Light(np.array([0, -200.0, 4.0]), radius, np.ones(3), 1e9, np.zeros(3), np.zeros(3))
        scene = build([slab], light=light, rays=4)
        colour = trace(scene, pose, LENS, *SIZE_PX, supersampling=4)[0][0, ..., 0]
        full = 0.7**2.2
        shades.append(((colour > 0.1 * full) & (colour < 0.9 * full)).sum())
    assert shades[1] > 1.3 * shades[0]


def test_distant_texture_fades_to_its_mean_and_does_not_alias():
    checks = np.indices((SIZE, SIZE)).sum(axis=0) % 2
    texture = np.where(checks[..., None], 0.9, 0.2) * np.ones(3)
    dark = Light(np.array([0, -9.0, 0]), 0.0, np.zeros(3), 1.0, np.zeros(3), np.zeros(3))
    scene = build([], texture=texture, light=dark, ambient=1.0, rays=2)
    colour = trace(scene, camera()[None], LENS, *SIZE_PX, supersampling=2)[0][0, ..., 0]
    mean = 0.5 * (0.9**2.2 + 0.2**2.2)
    ground = colour[22:]
    assert abs(ground.mean() / mean - 1) < 0.1
    assert ground.std() < 0.1 * mean


def test_looks_do_not_depend_on_the_view():
    texture = np.random.default_rng(0).random((SIZE, SIZE, 3)) * 0.2 + 0.4
    scene = build(
        [lambda m: Part(ELLIPSOID, (0, -1, 5), (1, 1, 1), m)], texture=texture, ambient=0.3
    )
    # One ray through the same surface point from two cameras, in their image centres.
    lens = np.array([[400.0, 0, 0.5], [0, 400.0, 0.5], [0, 0, 1]])
    point = np.array([0.1, -1.2, 5 - math.sqrt(1 - 0.05)])
    colours = []
    for at in ([0.0, -1.3, 1.0], [1.0, -1.4, 1.2]):
        ahead = point - at
        ahead /= np.linalg.norm(ahead)
        yaw, pitch = math.atan2(ahead[0], ahead[2]), math.asin(-ahead[1])
        pose = camera(yaw, pitch, at)[None]
        colour, depth = trace(scene, pose, lens, 1, 1, supersampling=1)
        np.testing.assert_allclose(depth[0, 0, 0], np.linalg.norm(point - at), rtol=1e-5)
        colours.append(colour[0, 0, 0])
    np.testing.assert_allclose(colours[0], colours[1], rtol=0.02)


def test_clearance_is_never_more_than_the_true_distance():
    rng = np.random.default_rng(5)
    turn = rotation(0.4, 0.3, 0.2)
    scene = build([lambda m: Part(BOX, (0.5, -1.5, 4.0), (0.6, 0.3, 0.2), m, rotation=turn)])
    points = rng.uniform([-2, -4, 1], [2, -0.1, 7], (400, 3))
    local = (points - [0.5, -1.5, 4.0]) @ turn
    beyond = np.abs(local) - [0.6, 0.3, 0.2]
    outside = np.linalg.norm(beyond.clip(min=0), axis=1) + beyond.max(axis=1).clip(max=0)
    expected = np.minimum(outside, -points[:, 1])
    np.testing.assert_allclose(clearance(scene, points), expected, atol=1e-9)
    assert clearance(scene, np.array([[0.5, -1.5, 4.0]]))[0] < 0
