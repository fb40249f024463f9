"""How far a camera path is from the commanded one: R_err and T_err.

Both paths are taken relative to one frame, and their lengths divided by their own largest distance from it, since
a reconstruction from images has no unit of length. That is the published practice (CameraCtrl, arXiv 2404.02101,
eq. 5 for the errors; CamI2V, arXiv 2410.15957, whose evaluation code normalises so, for the scale). Papers differ
in whether they add up a clip's frames or average them, and in degrees or radians: both are given, by names that
say so. Wonderland's 0.046 and 0.093 can only be means, in radians and in spans.

What these numbers can't tell: how far the camera went. A video that shows a tenth of the commanded motion, along
the same curve, has no translation error at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from eval.scores.measured import Measured, NotAvailable, mean, to_json

NO_SPAN = 1e-5
"""A path whose span is smaller than this, in scene units or as a share of its distance from the origin, does not
move: float32 has no more digits."""


@dataclass(frozen=True)
class PathError:
    """Errors of one clip's cameras.

    views: numbers of the frames that were compared; the first of them is the reference of both paths, and has no
        error by construction.
    rotation_deg: angle between the two rotations, of each view after the first.
    translation: distance between the two positions, in spans of the paths, of each view after the first; or why
        there is none.
    """

    views: tuple[int, ...]
    rotation_deg: tuple[float, ...]
    translation: tuple[float, ...] | NotAvailable

    @property
    def r_err_deg(self) -> float:
        """Mean over the views after the first."""
        return math.fsum(self.rotation_deg) / len(self.rotation_deg)

    @property
    def r_err_rad(self) -> float:
        return math.radians(self.r_err_deg)

    @property
    def r_err_sum_rad(self) -> float:
        """CameraCtrl's RotErr: the sum over the views."""
        return math.radians(math.fsum(self.rotation_deg))

    @property
    def t_err(self) -> Measured:
        """Mean over the views after the first, in spans."""
        return (
            self.translation
            if isinstance(self.translation, NotAvailable)
            else mean(self.translation)
        )

    @property
    def t_err_sum(self) -> Measured:
        """CameraCtrl's TransErr: the sum over the views."""
        return (
            self.translation
            if isinstance(self.translation, NotAvailable)
            else math.fsum(self.translation)
        )


def error_line(error: PathError | NotAvailable) -> dict[str, Any]:
    """Plain JSON of an error, with the same keys where there is none."""
    names = ("r_err_deg", "r_err_rad", "r_err_sum_rad", "t_err", "t_err_sum")
    lists = ("rotation_deg", "translation")
    if isinstance(error, NotAvailable):
        return to_json(dict.fromkeys((*names, *lists), error))
    return to_json({name: getattr(error, name) for name in (*names, *lists)})


def path_error(
    found: Cameras, commanded: Cameras, views: Sequence[int], *, found_moves: bool = True
) -> PathError:
    """Errors of `found`, the cameras of the frames `views` (at least two), against `commanded`, those of all frames.

    found_moves: False where the frames show a camera that stands still: its positions then count as one, instead
        of their noise being blown up to the commanded path's size.

    Where the commanded cameras stand still there is no length to measure in, and no translation error.
    """
    assert len(views) == found.num_views >= 2, f"{len(views)} views, {found.num_views} cameras"
    ours = found.to(torch.float64).relative_to(0).camera_to_world
    wanted = commanded.to(torch.float64).select(list(views)).relative_to(0).camera_to_world
    angles = rotation_angles(ours[1:, :3, :3].mT @ wanted[1:, :3, :3])
    translation: tuple[float, ...] | NotAvailable
    if not moves(commanded.select(list(views))):
        translation = NotAvailable(
            "the commanded cameras do not move, so there is no length to measure translations in"
        )
    else:
        target = wanted[1:, :3, 3] / largest_distance(wanted)
        reached = torch.zeros_like(target)
        if found_moves and moves(found):
            reached = ours[1:, :3, 3] / largest_distance(ours)
        translation = tuple((reached - target).norm(dim=-1).tolist())
    return PathError(tuple(views), tuple(torch.rad2deg(angles).tolist()), translation)


def moves(cameras: Cameras) -> bool:
    """Whether cameras change their place, beyond rounding."""
    positions = cameras.to(torch.float64).positions
    span = float((positions - positions[:1]).norm(dim=-1).max())
    return span > NO_SPAN * max(1.0, float(positions.norm(dim=-1).max()))


def largest_distance(camera_to_world: Float[Tensor, "v 4 4"]) -> Float[Tensor, ""]:
    """The span of a path: the largest distance of a camera from the first."""
    positions = camera_to_world[:, :3, 3]
    return (positions - positions[:1]).norm(dim=-1).max()


def rotation_angles(matrices: Float[Tensor, "v 3 3"]) -> Float[Tensor, " v"]:
    """Angles of rotation matrices, 0 to pi; exact also where they are tiny, unlike the arc cosine of the trace."""
    turned = matrices - matrices.mT
    axis = torch.stack([turned[:, 2, 1], turned[:, 0, 2], turned[:, 1, 0]], dim=-1)
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(axis.norm(dim=-1), trace - 1)
