"""Whether a generated clip went where it was told to, and where it went instead: poses estimated from its frames.

The pipeline asks this of every clip (`models.video.clip_poses`). The cameras come from direct alignment, whose error
bars tell what it can't know (`eval.cameras.photometric`). Alignment has no unit of length of its own; a clip has, the
median depth of its first frame, and a plane sweep with the cameras found says what that is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from eval.cameras.photometric import (
    PhotometricCameraError,
    PhotometricConfig,
    photometric_camera_error,
)
from eval.scores.measured import NotAvailable
from models.video.clip_poses import ClipPoses
from train.swept_depth import SweepConfig, swept_depth

BEYOND = 2.0
"""Cameras are not followed where their error is larger than what right ones would score because of the measurement, by
more than so many of the error's standard deviations."""
SWEEP = SweepConfig(num_neighbours=8)


PoseSource = Literal["commanded", "auto", "estimated"]
"""Which poses a generated clip is taken to have; auto: estimated ones where the commanded are not followed."""


@dataclass(frozen=True)
class FollowedPoses:
    """Implements `models.video.clip_poses.PoseEstimator`.

    always: the estimated poses are taken wherever there are any.
    """

    always: bool = False
    config: PhotometricConfig = field(default_factory=PhotometricConfig)

    def __call__(self, frames: Float[Tensor, "t 3 h w"], cameras: Cameras) -> ClipPoses:
        measured = photometric_camera_error(frames, cameras, self.config)
        numbers = measured.line()
        if (why := _why_unknown(measured)) is not None:
            return ClipPoses(None, f"the commanded poses are kept, unchecked: {why}", numbers)
        parts = [_beyond(measured, name) for name in ("r", "t")]
        follows = not any(beyond for _, beyond in parts)
        numbers |= {"follows": follows}
        told = ", ".join(text for text, _ in parts)
        if follows and not self.always:
            return ClipPoses(
                None,
                f"the commanded poses are followed, as far as the frames can tell ({told})",
                numbers,
            )
        how = "followed" if follows else "not followed"
        return ClipPoses(
            in_own_unit(frames, measured),
            f"the commanded poses are {how} ({told}); those estimated from the frames are used",
            numbers,
        )


def pose_estimator(source: PoseSource) -> FollowedPoses | None:
    """What the pipeline should ask; None where it is to trust the path."""
    if source == "commanded":
        return None
    return FollowedPoses(always=source == "estimated")


def in_own_unit(frames: Float[Tensor, "t 3 h w"], measured: PhotometricCameraError) -> Cameras:
    """The cameras found of all frames, in units of the first one's median depth; float64."""
    assert measured.found is not None
    depth = swept_depth(frames, measured.found.to(torch.float32), SWEEP)
    return measured.found.rescaled(float(depth[0].median()))


def _why_unknown(measured: PhotometricCameraError) -> str | None:
    """What keeps the frames from telling their cameras, turning and moving both."""
    if isinstance(measured.error, NotAvailable):
        return measured.error.why
    if isinstance(measured.error.translation, NotAvailable):
        return measured.error.translation.why
    if len(measured.views) < measured.num_frames:
        return (
            f"{measured.num_frames - len(measured.views)} of {measured.num_frames} frames are blank"
        )
    return None


def _beyond(measured: PhotometricCameraError, name: str) -> tuple[str, bool]:
    """An error in words, and whether it is more than the measurement's own."""
    error, bars = measured.error, measured.bars
    assert bars is not None and not isinstance(error, NotAvailable)
    if name == "r":
        found, bar, floor = error.r_err_deg, bars.r_err_deg, bars.r_floor_deg
        text = f"R_err {found:.2f} +- {bar:.2f} deg"
    else:
        assert bars.t_err is not None and not isinstance(error.t_err, NotAvailable)
        # Frames at rest have no floor: what they lack of the commanded motion is error.
        found, bar, floor = error.t_err, bars.t_err, bars.t_floor or 0.0
        text = f"T_err {found:.3f} +- {bar:.3f} of the path's span"
    return text, found > floor + BEYOND * bar
