"""The cameras that frames should have been taken from, as a file of any format has them."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from data.importers.path_files import read_camera_path
from data.importers.recorded_path import RecordedPath

SAME_SHAPE = 0.02
"""Proportions that differ by less are the same, but for rounding."""


def commanded_cameras(
    path: Path, num_frames: int, size: tuple[int, int], fov_deg: float | None = None
) -> tuple[Cameras, list[str]]:
    """The cameras of a file for frames of `size` (height, width), and what to say about how it was read.

    They are float64, in the file's world axes and unit. A file for pictures of other proportions is taken to be for
    the whole picture whose centred part the frames are, as video models crop theirs. fov_deg: vertical field of
    view, for files that tell no focal length. Lens distortion is not looked at: generated frames have none.

    Raises UserError where the file can't be read, or has not one camera a frame.
    """
    recorded = read_camera_path(path, num_views=num_frames)
    if (count := len(recorded.world_to_camera)) != num_frames:
        raise UserError(
            f"{path} has {count} cameras for {num_frames} frames; expected one camera a frame, in the"
            " frames' order"
        )
    intrinsics, notes = _intrinsics(recorded, size, fov_deg, path)
    height, width = size
    return Cameras(recorded.world_to_camera, intrinsics, height, width).validate(str(path)), notes


def _intrinsics(
    recorded: RecordedPath, size: tuple[int, int], fov_deg: float | None, path: Path
) -> tuple[Float[Tensor, "t 3 3"], list[str]]:
    height, width = size
    if recorded.intrinsics is None or fov_deg is not None:
        if fov_deg is None:
            raise UserError(
                f"{path} tells no focal length; give the vertical field of view in degrees with --fov"
            )
        matrix = intrinsics_from_fov(fov_deg, height, width).double()
        return matrix.expand(len(recorded.world_to_camera), 3, 3).clone(), []
    shares = recorded.intrinsics
    # Square pixels: focal lengths in shares of the sides tell the picture's proportions.
    stated = float((shares[:, 1, 1] / shares[:, 0, 0]).median())
    whole_height, whole_width = float(height), float(width)
    notes = []
    if abs(stated * height / width - 1) > SAME_SHAPE:
        notes.append(
            f"the cameras are for pictures {stated:.3g} times as wide as high, the frames are"
            f" {width / height:.3g}: taken as the centred part of those"
        )
        whole_width = max(whole_width, stated * height)
        whole_height = max(whole_height, width / stated)
    sides = torch.tensor([[whole_width], [whole_height], [1]], dtype=torch.float64)
    matrices = shares.double() * sides
    matrices[:, 0, 2] -= (whole_width - width) / 2
    matrices[:, 1, 2] -= (whole_height - height) / 2
    return matrices, notes
