"""A camera path as a file records it, and its placing in front of a photograph.

Every reader of a path format makes a `RecordedPath`; what is common to all of them is here: moving the
path so that its first camera is the photograph's, the unit of length, an even number of views over time,
and the checks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.camera_interpolation import PositionCurve, interpolate_cameras
from data.cameras import Cameras, invert_rigid
from data.importers.posed_images import nearest_rigid

ROUNDING = 1e-5
"""Rotations that are orthonormal to this are taken as they are."""
EVEN = 1e-6
"""Times count as even when no step differs from the mean step by more than this share."""
AMBIGUOUS_TURN_DEG = 170.0
"""From one view of a file to the next; with more, the way round is anybody's guess."""
JUMP_TURN_DEG = 60.0
JUMP_LENGTH, JUMP_RATIO = 0.5, 10.0
"""A jump from one view of the finished path to the next is a turn of more than `JUMP_TURN_DEG`, or a step
that is longer than half the scene's median depth and more than ten times the median step."""


@dataclass(frozen=True)
class RecordedPath:
    """A path in the world axes and the unit of length of its file.

    world_to_camera: OpenCV camera axes, float64.
    intrinsics: in shares of the image's width and height, float64; None where the file has none.
    times: increasing, in any unit.
    scale: how many of the file's units make one scene unit; None where the file says metres and no more.
    """

    source: str
    world_to_camera: Float[Tensor, "view 4 4"]
    intrinsics: Float[Tensor, "view 3 3"] | None
    times: Float[Tensor, " view"]
    scale: float | None = 1.0

    @staticmethod
    def from_world_to_camera(
        source: str,
        world_to_camera: Float[Tensor, "view 4 4"],
        intrinsics: Float[Tensor, "view 3 3"] | None = None,
        times: Float[Tensor, " view"] | None = None,
        scale: float | None = 1.0,
    ) -> RecordedPath:
        """A path that makes sense, made exactly rigid; evenly timed where there are no times.

        Raises UserError that names `source` and the first view that is wrong.
        """
        num_views = len(world_to_camera)
        if num_views < 2:
            raise UserError(
                f"{source}: a camera path has at least 2 views, this one has {num_views or 'none'}"
            )
        _check_transforms(world_to_camera, source)
        if intrinsics is not None:
            Cameras(world_to_camera, intrinsics, 1, 1).validate(source)
        if times is None:
            times = torch.arange(num_views, dtype=torch.float64)
        _check_times(times, source)
        world_to_camera = _rigid(world_to_camera)
        _check_turns(world_to_camera, source)
        return RecordedPath(source, world_to_camera, intrinsics, times, scale)

    @staticmethod
    def from_camera_to_world(
        source: str,
        camera_to_world: Float[Tensor, "view 4 4"],
        intrinsics: Float[Tensor, "view 3 3"] | None = None,
        times: Float[Tensor, " view"] | None = None,
        scale: float | None = 1.0,
    ) -> RecordedPath:
        """As `from_world_to_camera`, of OpenCV cameras' places in the world."""
        # Checked as they are in the file: inverting would hide a wrong last row.
        _check_transforms(camera_to_world, source)
        world_to_camera = invert_rigid(_rigid(camera_to_world))
        return RecordedPath.from_world_to_camera(source, world_to_camera, intrinsics, times, scale)

    def placed_at(
        self,
        base: Cameras,
        num_views: int | None = None,
        *,
        scale: float | int | None = None,
        positions: PositionCurve = "cubic",
    ) -> Cameras:
        """The path as cameras whose first is `base`, of which all others are moved and zoomed relatives.

        base: one view, in scene units (median depth 1).
        num_views: evenly over the path's time; None takes the file's own views.
        scale: how many of the file's units make one scene unit; None takes what the file says.

        Focal lengths are the base's times the zoom since the path's first view, and the principal point
        moves from the base's as in the file. Raises UserError for what is wrong with the path, a unit that
        is not known, or a jump.
        """
        scale = self._scale(scale)
        start = base.to(torch.float64)
        intrinsics = _zoomed(start, self.intrinsics, len(self.times))
        relative = Cameras(self.world_to_camera, intrinsics, base.height, base.width)
        relative = relative.relative_to(0).rescaled(scale)
        if num_views is not None and not (num_views == len(self.times) and _even(self.times)):
            first, last = float(self.times[0]), float(self.times[-1])
            at = torch.linspace(first, last, num_views, dtype=torch.float64)
            relative = interpolate_cameras(relative, at, self.times, positions)
        check_steps(relative, self.source)
        world_to_camera = relative.world_to_camera @ start.world_to_camera
        world_to_camera[0] = start.world_to_camera[0]
        placed = replace(relative, world_to_camera=world_to_camera)
        return placed.validate(self.source).to(base.world_to_camera.dtype)

    def _scale(self, scale: float | int | None) -> float:
        if scale is None:
            scale = self.scale
        if scale is None:
            raise UserError(
                f"{self.source} is in metres; say how many metres make one scene unit, the median depth of"
                " the photograph (scale)"
            )
        if not 0 < scale < math.inf:
            raise UserError(f"{self.source}: scale is {scale}, expected a positive number")
        return float(scale)


def check_steps(path: Cameras, source: str) -> None:
    """Raises UserError that names the views between which a path in scene units jumps."""
    steps = path.positions.double().diff(dim=0).norm(dim=-1)
    turns = _turns_deg(path.world_to_camera.double())
    far = (steps > JUMP_LENGTH) & (steps > JUMP_RATIO * steps.median())
    wide = turns > JUMP_TURN_DEG
    if not bool((far | wide).any()):
        return
    view = int((far | wide).double().argmax())
    what = (
        f"by {steps[view]:.3g} scene units, where a usual step is {steps.median():.2g}"
        if far[view]
        else f"by a turn of {turns[view]:.0f} degrees"
    )
    raise UserError(
        f"{source}: the path jumps {what}, between views {view} and {view + 1} of {path.num_views};"
        " expected a steady path: cut it there, or ask for more views"
    )


def _check_transforms(transforms: Float[Tensor, "view 4 4"], source: str) -> None:
    for view, transform in enumerate(transforms):
        if transform[3, :3].any() and not transform[:3, 3].any():
            raise UserError(
                f"{source}: camera {view} has its translation in the last row; the matrix seems to be"
                " transposed (column-major), expected rows"
            )
    unit = torch.eye(3, dtype=torch.float64).expand(len(transforms), 3, 3)
    Cameras(transforms, unit, 1, 1).validate(source)


def _check_times(times: Float[Tensor, " view"], source: str) -> None:
    steps = times.diff()
    if not bool(torch.isfinite(times).all() and (steps > 0).all()):
        view = int((~(steps > 0)).double().argmax())
        raise UserError(
            f"{source}: times have to increase from view to view, but view {view} is at"
            f" {times[view]:.12g} and view {view + 1} at {times[view + 1]:.12g}"
        )


def _check_turns(world_to_camera: Float[Tensor, "view 4 4"], source: str) -> None:
    turns = _turns_deg(world_to_camera)
    view = int(turns.argmax())
    if turns[view] > AMBIGUOUS_TURN_DEG:
        raise UserError(
            f"{source}: from view {view} to {view + 1} the camera turns by {turns[view]:.0f} degrees, and"
            " which way round is not known; expected views closer together"
        )


def _rigid(transforms: Float[Tensor, "view 4 4"]) -> Float[Tensor, "view 4 4"]:
    """The nearest rigid transforms; what is rigid as far as float32 goes stays bit for bit."""
    rotation = transforms[:, :3, :3]
    identity = torch.eye(3, dtype=transforms.dtype)
    error = (rotation @ rotation.mT - identity).abs().amax(dim=(1, 2))
    return torch.where((error > ROUNDING)[:, None, None], nearest_rigid(transforms), transforms)


def _zoomed(
    base: Cameras, intrinsics: Float[Tensor, "view 3 3"] | None, num_views: int
) -> Float[Tensor, "view 3 3"]:
    """The base's intrinsics, zoomed and shifted as the path's are since its first view."""
    matrices = base.intrinsics.expand(num_views, 3, 3).clone()
    if intrinsics is None:
        return matrices
    for axis, side in ((0, base.width), (1, base.height)):
        matrices[:, axis, axis] *= intrinsics[:, axis, axis] / intrinsics[0, axis, axis]
        matrices[:, axis, 2] += side * (intrinsics[:, axis, 2] - intrinsics[0, axis, 2])
    return matrices


def _even(times: Float[Tensor, " view"]) -> bool:
    steps = times.diff()
    return bool((steps / steps.mean() - 1).abs().max() < EVEN)


def _turns_deg(world_to_camera: Float[Tensor, "view 4 4"]) -> Float[Tensor, " step"]:
    """Angles between consecutive views."""
    to_next = (world_to_camera[1:] @ invert_rigid(world_to_camera[:-1]))[:, :3, :3]
    trace = to_next.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))
