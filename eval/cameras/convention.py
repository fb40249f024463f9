"""Whether cameras are in another convention than ours, told by the frames that they took.

Files of cameras rarely say their axes. Read wrongly they are still valid rigid transforms, and every score against
them is quietly worthless. Matched features tell: under the right reading they lie on their epipolar lines and in
front of both cameras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.cameras import Cameras
from data.importers.frame_matches import (
    FrameMatches,
    MatchConfig,
    Matches,
    check_cameras_fit,
    match_frames,
)
from eval.cameras.epipolar import baseline_is_zero, matched_distances

GAPS = (1, 2, 4, 8)
"""Frames are compared with those so many places on: convention shows best where the camera has moved."""
AGREES_WITHIN = 0.008
"""A match agrees with cameras when it is this near its epipolar line, as a share of the frames' height: 2 px of 256,"""
AGREES_WITHIN_PX = 0.5
"""or this many pixels, if that is more: features of small frames are not found any nearer."""
LEAST_MATCHES = 50
LEAST_SHARE = 0.6
"""Another reading is named where so many of the matches agree with it,"""
MUCH_LESS = 0.6
"""and less than this share of those agree with the cameras as they are."""
AS_GOOD = 0.03
"""Readings whose shares differ by less can't be told apart: a move without turning fits several."""
LEAST_PARALLAX = 2e-3
"""Rays that differ by less [rad] tell no depth."""
LEAST_FOCAL = 0.1
"""A focal length below this share of the width, a field of view of 157 degrees, is not in pixels."""
FAR_OFF = 20.0
"""A scene so many times farther or nearer than it should be is in another unit of length."""

Signs = tuple[float, float, float]


@dataclass(frozen=True)
class Axes:
    """Axes that others use. camera, world: what to multiply theirs by, to get ours. cure: the same in words, for
    camera-to-world matrices."""

    what: str
    cure: str
    camera: Signs
    world: Signs = (1.0, 1.0, 1.0)


OTHER_AXES = (
    Axes(
        "OpenGL axes (x right, y up, z backward), as nerfstudio and Blender have",
        "negate the second and third columns of the camera-to-world rotations",
        camera=(1.0, -1.0, -1.0),
    ),
    Axes(
        "PyTorch3D's axes (x left, y up, z forward)",
        "negate the first and second columns of the camera-to-world rotations",
        camera=(-1.0, -1.0, 1.0),
    ),
    Axes(
        "left-handed axes (x right, y up, z forward), as Unity has",
        "negate the second row and the second column of the camera-to-world matrices",
        camera=(1.0, -1.0, 1.0),
        world=(1.0, -1.0, 1.0),
    ),
)


@dataclass(frozen=True)
class Reading:
    """A way to read the cameras' matrices. what: it is, in words. cure: how to get cameras in our convention."""

    what: str
    cure: str
    cameras: Cameras


def check_convention(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    *,
    matching: MatchConfig | None = None,
    matches: FrameMatches | None = None,
    scene_depth: float | None = None,
    seed: int = 0,
) -> str | None:
    """A sentence on what the cameras seem to be instead of ours, or None where nothing speaks against them.

    matches: those of `match_frames` on the same frames. scene_depth: what the median depth of the first frame
        should be in the cameras' unit, where a unit is agreed; without, none is asked for.

    None is no proof: frames without features tell nothing; a move sideways without turning looks alike in OpenGL
    axes; and frames that follow no reading, as generated ones may, speak against none.
    Raises UserError where frames and cameras differ in number or size.
    """
    check_cameras_fit(frames, cameras)
    if (wrong := _wrong_intrinsics(cameras)) is not None:
        return wrong
    pairs = [(i, i + gap) for gap in GAPS for i in range(len(frames) - gap)]
    if not pairs:
        return None
    if matches is None:
        config = matching or MatchConfig()
        with match_frames(frames, cameras, config, pairs=pairs, seed=seed) as found:
            return _judge(cameras, dict(zip(pairs, found.matches(pairs), strict=True)), scene_depth)
    return _judge(cameras, dict(zip(pairs, matches.matches(pairs), strict=True)), scene_depth)


def other_readings(cameras: Cameras) -> list[Reading]:
    """What the same matrices would be in the conventions that are often confused with ours, likelier ones first."""
    inverted = replace(cameras, world_to_camera=cameras.camera_to_world)
    opengl, *rarer = [
        Reading(f"cameras in {axes.what}", axes.cure, _in_our_axes(cameras, axes))
        for axes in OTHER_AXES
    ]
    swapped = [
        Reading(
            f"camera-to-world matrices in {axes.what}",
            f"invert them, then {axes.cure}",
            _in_our_axes(inverted, axes),
        )
        for axes in OTHER_AXES
    ]
    return [
        opengl,
        Reading("camera-to-world matrices, read as world-to-camera ones", "invert them", inverted),
        *rarer,
        *swapped,
        Reading(
            "those of mirrored frames", "flip the frames left to right again", cameras.mirrored()
        ),
    ]


def _in_our_axes(cameras: Cameras, axes: Axes) -> Cameras:
    """Cameras whose matrices are in other axes."""
    of_camera, of_world = (
        torch.diag(torch.tensor([*signs, 1.0])).to(cameras.world_to_camera)
        for signs in (axes.camera, axes.world)
    )
    return replace(cameras, world_to_camera=of_camera @ cameras.world_to_camera @ of_world)


def _judge(
    cameras: Cameras, matches: Mapping[tuple[int, int], Matches], scene_depth: float | None
) -> str | None:
    cameras = cameras.to(torch.float64)
    total = sum(len(first) for first, _ in matches.values())
    if total < LEAST_MATCHES:
        return None
    share = agreeing_share(cameras, matches)
    if share < MUCH_LESS and (other := _better_reading(cameras, matches, share)) is not None:
        return other
    return None if scene_depth is None else _wrong_unit(cameras, matches, share, scene_depth)


def _better_reading(
    cameras: Cameras, matches: Mapping[tuple[int, int], Matches], share: float
) -> str | None:
    """A sentence on the reading that far more of the matches agree with than the `share` that do as it is."""
    readings = other_readings(cameras)
    shares = [agreeing_share(reading.cameras, matches) for reading in readings]
    most, total = max(shares), sum(len(first) for first, _ in matches.values())
    if most < LEAST_SHARE or share >= MUCH_LESS * most:
        return None
    best, *others = [
        one for one, fits in zip(readings, shares, strict=True) if fits > most - AS_GOOD
    ]
    alike = "".join(f"; or like {other.what}, which fits as well" for other in others)
    return (
        f"the cameras look like {best.what}: {most:.0%} of {total} feature matches between the frames agree with"
        f" that, {share:.0%} with the cameras as they are; {best.cure}{alike}"
    )


def agreeing_share(cameras: Cameras, matches: Mapping[tuple[int, int], Matches]) -> float:
    """The share of all matches that lie near their epipolar lines and in front of both cameras."""
    limit = max(AGREES_WITHIN_PX, AGREES_WITHIN * cameras.height)
    agree = total = 0
    for (i, j), points in matches.items():
        first, second = cameras.select(i), cameras.select(j)
        near = matched_distances(first, second, points) < limit
        behind, _ = _behind(first, second, points)
        agree += int((near & ~behind).sum())
        total += len(near)
    return agree / max(total, 1)


def _behind(
    first: Cameras, second: Cameras, points: Matches
) -> tuple[Bool[Tensor, " m"], Float[Tensor, " m"]]:
    """Which matches lie behind a camera, and all matches' depths in the first; NaN where rays tell none."""
    depth = torch.full((len(points[0]),), torch.nan, dtype=torch.float64)
    if baseline_is_zero(first, second) or not len(depth):
        return torch.zeros(len(depth), dtype=torch.bool), depth
    relative = second.world_to_camera[0] @ first.camera_to_world[0]
    one = _rays(first, points[0]) @ relative[:3, :3].mT
    two = _rays(second, points[1])
    # Both along their rays: a * one + t = b * two, by least squares.
    t = relative[:3, 3]
    normal = torch.linalg.cross(one, two)
    size = normal.square().sum(-1)
    a = (torch.linalg.cross(two, t.expand_as(two)) * normal).sum(-1) / size.clamp_min(1e-300)
    b = (torch.linalg.cross(one, t.expand_as(one)) * normal).sum(-1) / size.clamp_min(1e-300)
    parallax = size.sqrt() / (one.norm(dim=-1) * two.norm(dim=-1))
    told = parallax > LEAST_PARALLAX
    return told & ((a <= 0) | (b <= 0)), torch.where(told, a, depth)


def _rays(camera: Cameras, points: Float[Tensor, "m 2"]) -> Float[Tensor, "m 3"]:
    """Directions in camera axes with z = 1."""
    pixels = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    return pixels @ torch.linalg.inv(camera.intrinsics[0]).mT


def _wrong_unit(
    cameras: Cameras,
    matches: Mapping[tuple[int, int], Matches],
    share: float,
    scene_depth: float,
) -> str | None:
    depths = [
        _behind(cameras.select(i), cameras.select(j), points)[1]
        for (i, j), points in matches.items()
    ]
    known = torch.cat(depths)
    known = known[known > 0]
    if share < LEAST_SHARE or len(known) < LEAST_MATCHES:
        return None
    median = float(known.median())
    if scene_depth / FAR_OFF <= median <= scene_depth * FAR_OFF:
        return None
    return (
        f"the cameras' translations seem to be in another unit: the frames' features lie {median:.3g} away, where"
        f" about {scene_depth:.3g} was expected; divide the translations by {median / scene_depth:.3g}"
    )


def _wrong_intrinsics(cameras: Cameras) -> str | None:
    """A sentence where focal lengths or principal points can't be pixels of these frames."""
    matrix = cameras.intrinsics.double()
    focal = matrix[:, [0, 1], [0, 1]]
    shortest = float(focal.min())
    size = f"{cameras.height}x{cameras.width}"
    if shortest < LEAST_FOCAL * cameras.width:
        return (
            f"a focal length of {shortest:.3g} px is none for frames of {size}: intrinsics seem to be shares of the"
            " image size; multiply the first row by the width and the second by the height"
        )
    centre = matrix[:, :2, 2]
    limit = centre.new_tensor([cameras.width, cameras.height])
    if bool(((centre < 0) | (centre > limit)).any()):
        x, y = centre[int(((centre < 0) | (centre > limit)).any(dim=1).nonzero()[0])].tolist()
        return (
            f"the principal point ({x:.4g}, {y:.4g}) lies outside of the frames of {size}: the intrinsics seem to be"
            " for another image size; scale them with the frames"
        )
    return None
