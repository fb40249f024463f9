"""Camera paths by name: how a camera moves from where one view was taken.

A path is a `Move`: a function from progress t in [0, 1] and an amplitude to a `Waypoint`, the camera's
place in the axes of the base camera (OpenCV: x right, y down, z forward). Distances are in scene units,
in which the base view's median depth is 1, so that the point of interest, the pivot, lies at (0, 0, 1).
Directions in descriptions are those that a person behind the camera would say; a negative amplitude
goes the other way.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, invert_rigid, skew

RIGHT, DOWN, FORWARD = torch.eye(3, dtype=torch.float64)
PIVOT = FORWARD
SPIRAL_TURNS = 1.0

Known = TypeVar("Known")


@dataclass(frozen=True)
class Waypoint:
    """Where a camera is on a path.

    camera_to_base: rigid transform, float64; the identity is the base camera.
    focal_scale: factor on the base camera's focal lengths.
    """

    camera_to_base: Float[Tensor, "4 4"]
    focal_scale: float = 1.0


Move = Callable[[float, float], Waypoint]


@dataclass(frozen=True)
class NamedPath:
    """A move with what a person needs to know to use it.

    unit: of the amplitude. limit: the largest size of amplitude that makes sense.
    """

    move: Move
    description: str
    unit: str
    amplitude: float
    limit: float


@dataclass(frozen=True)
class Segment:
    """One part of a joined path: a named path, its amplitude (None: its default) and share of the time."""

    name: str
    amplitude: float | int | None = None
    share: float | int = 1.0


def list_paths() -> dict[str, str]:
    """Names and one-line descriptions of all paths, with unit and default of the amplitude."""
    return {
        name: f"{path.description} (amplitude in {path.unit}, default {path.amplitude:g})"
        for name, path in PATHS.items()
    }


def make_path(
    name: str,
    base: Cameras,
    num_views: int,
    amplitude: float | int | None = None,
    *,
    easing: str = "linear",
) -> Cameras:
    """`num_views` cameras along a named path; the first is `base` itself.

    base: one view, in scene units (median depth 1).
    amplitude: how far it goes, in the path's own unit; None takes its default, a negative one the other
        direction.
    easing: how progress runs over time, one of `EASINGS`.

    Raises UserError for an unknown name, fewer than 2 views, or an amplitude out of range.
    """
    return join_paths([Segment(name, amplitude)], base, num_views, easing=easing)


def join_paths(
    segments: Sequence[Segment], base: Cameras, num_views: int, *, easing: str = "linear"
) -> Cameras:
    """`num_views` cameras along paths one after another, each from where the last one ended.

    Time is divided by the segments' shares; easing holds for each segment. The pivot travels with the
    camera: it is always one scene unit in front of where a segment starts.
    Arguments and errors as for `make_path`.
    """
    if base.world_to_camera.shape != (1, 4, 4):
        raise UserError(
            f"a camera path starts from 1 camera, found shape {list(base.world_to_camera.shape)}"
        )
    if num_views < 2:
        raise UserError(f"a camera path has at least 2 views, {num_views} were asked for")
    if not segments:
        raise UserError("a camera path needs at least one segment")
    moves = [_checked_move(segment) for segment in segments]
    ease = _lookup(EASINGS, easing, "easing")
    total = sum(segment.share for segment in segments)
    shares = [segment.share / total for segment in segments]

    start = base.to(torch.float64)
    transforms, intrinsics = [], []
    for view in range(num_views):
        waypoint = _along(moves, shares, view / (num_views - 1), ease)
        to_camera = invert_rigid(waypoint.camera_to_base).to(start.world_to_camera)
        transforms.append(to_camera @ start.world_to_camera[0])
        matrix = start.intrinsics[0].clone()
        matrix[:2, :2] *= waypoint.focal_scale
        intrinsics.append(matrix)
    path = Cameras(torch.stack(transforms), torch.stack(intrinsics), base.height, base.width)
    return path.to(base.world_to_camera.dtype)


def _along(
    moves: Sequence[Callable[[float], Waypoint]],
    shares: Sequence[float],
    t: float,
    ease: Callable[[float], float],
) -> Waypoint:
    """The waypoint at time t in [0, 1] of moves that follow each other."""
    place = Waypoint(torch.eye(4, dtype=torch.float64))
    for move, share in zip(moves, shares, strict=True):
        waypoint = move(ease(min(t / share, 1.0)))
        place = Waypoint(
            place.camera_to_base @ waypoint.camera_to_base,
            place.focal_scale * waypoint.focal_scale,
        )
        t -= share
        if t <= 0:
            break
    return place


def _checked_move(segment: Segment) -> Callable[[float], Waypoint]:
    """A segment's move with its amplitude filled in; raises UserError where something is off."""
    path = _lookup(PATHS, segment.name, "camera path")
    amplitude = path.amplitude if segment.amplitude is None else segment.amplitude
    if not abs(amplitude) <= path.limit:
        raise UserError(
            f"amplitude of camera path '{segment.name}' is {amplitude} {path.unit}, expected between"
            f" {-path.limit:g} and {path.limit:g}"
        )
    if not 0 < segment.share < math.inf:
        raise UserError(
            f"share of camera path '{segment.name}' is {segment.share}, expected a positive number"
        )
    return lambda t: path.move(t, float(amplitude))


def _lookup(known: Mapping[str, Known], name: str, kind: str) -> Known:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UserError(f"there is no {kind} '{name}'{hint} (known: {', '.join(known)})")


def orbit(t: float, degrees: float) -> Waypoint:
    """Circles the pivot to the right at constant distance, looking at it."""
    rotation = _rotation(DOWN, -t * degrees)
    return Waypoint(_rigid(rotation, PIVOT - rotation @ PIVOT))


def dolly(t: float, distance: float) -> Waypoint:
    """Moves forward."""
    return _shift(FORWARD * (t * distance))


def dolly_zoom(t: float, distance: float) -> Waypoint:
    """Moves forward and widens the view so that what is at the pivot's depth keeps its size."""
    moved = _shift(FORWARD * (t * distance))
    return Waypoint(moved.camera_to_base, focal_scale=1 - t * distance)


def truck(t: float, distance: float) -> Waypoint:
    """Moves right."""
    return _shift(RIGHT * (t * distance))


def pedestal(t: float, distance: float) -> Waypoint:
    """Moves up."""
    return _shift(DOWN * (-t * distance))


def pan(t: float, degrees: float) -> Waypoint:
    """Turns right on the spot."""
    return Waypoint(_rigid(_rotation(DOWN, t * degrees), torch.zeros_like(PIVOT)))


def tilt(t: float, degrees: float) -> Waypoint:
    """Turns up on the spot."""
    return Waypoint(_rigid(_rotation(RIGHT, t * degrees), torch.zeros_like(PIVOT)))


def roll(t: float, degrees: float) -> Waypoint:
    """Leans clockwise about the line of sight."""
    return Waypoint(_rigid(_rotation(FORWARD, t * degrees), torch.zeros_like(PIVOT)))


def spiral(t: float, radius: float) -> Waypoint:
    """Circles outward around where it started, first up, then right, looking at the pivot."""
    angle = 2 * math.pi * SPIRAL_TURNS * t
    return _look_at_pivot(t * radius * (math.sin(angle) * RIGHT - math.cos(angle) * DOWN))


def crane(t: float, distance: float) -> Waypoint:
    """Rises while it keeps looking at the pivot."""
    return _look_at_pivot(DOWN * (-t * distance))


def _shift(translation: Float[Tensor, " 3"]) -> Waypoint:
    return Waypoint(_rigid(torch.eye(3, dtype=torch.float64), translation))


def _look_at_pivot(position: Float[Tensor, " 3"]) -> Waypoint:
    """A camera at `position` without roll whose line of sight goes through the pivot."""
    forward = torch.nn.functional.normalize(PIVOT - position, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(DOWN, forward), dim=0)
    down = torch.linalg.cross(forward, right)
    return Waypoint(_rigid(torch.stack([right, down, forward], dim=1), position))


def _rotation(axis: Float[Tensor, " 3"], degrees: float) -> Float[Tensor, "3 3"]:
    """Right-handed rotation about a unit axis (Rodrigues' formula); exactly the identity at 0."""
    angle = math.radians(degrees)
    cross = skew(axis)
    identity = torch.eye(3, dtype=torch.float64)
    return identity + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


def _rigid(
    rotation: Float[Tensor, "3 3"], translation: Float[Tensor, " 3"]
) -> Float[Tensor, "4 4"]:
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3], transform[:3, 3] = rotation, translation
    return transform


EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "smooth": lambda t: t * t * (3 - 2 * t),
    "ease_in": lambda t: t * t,
    "ease_out": lambda t: t * (2 - t),
}
"""How progress runs from 0 to 1: evenly, slowly at both ends, slowly at first, slowly at last."""

PATHS: dict[str, NamedPath] = {
    "orbit": NamedPath(orbit, "circles the subject to the right", "degrees", 30.0, 360.0),
    "dolly": NamedPath(dolly, "moves forward", "scene units", 0.3, 3.0),
    "dolly_zoom": NamedPath(
        dolly_zoom,
        "moves forward while zooming out; the subject keeps its size",
        "scene units",
        0.3,
        0.9,
    ),
    "truck": NamedPath(truck, "moves right", "scene units", 0.3, 3.0),
    "pedestal": NamedPath(pedestal, "moves up", "scene units", 0.2, 3.0),
    "crane": NamedPath(crane, "rises, looking at the subject", "scene units", 0.3, 3.0),
    "spiral": NamedPath(
        spiral, "circles outward, looking at the subject", "scene units", 0.15, 1.0
    ),
    "pan": NamedPath(pan, "turns right on the spot", "degrees", 20.0, 360.0),
    "tilt": NamedPath(tilt, "turns up on the spot", "degrees", 10.0, 90.0),
    "roll": NamedPath(roll, "leans clockwise", "degrees", 15.0, 360.0),
}
