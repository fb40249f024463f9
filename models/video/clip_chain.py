"""Long camera paths as clips that chain: each starts from the last frame of the one before it.

A video model makes clips of one length, of scenes whose unit of length is the median depth of their first
frame. So each clip of a chain has its own axes, its first camera's, and its own unit. The unit is measured: it is
the median depth, in the first clip's units, that the scene reconstructed so far has from the clip's first
camera. Camera translations are divided by it on the way in, and the clip's Gaussians multiplied by it on the way
out, so that all clips end up in the first one's axes and unit, along the cameras that were asked for.

Where a clip's frames show that its cameras went elsewhere (`models.video.clip_poses`), the path goes through where
they are, and the rest of it is carried along: the next clip makes the move that was asked for, from there.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from configs.errors import UserError
from data.cameras import Cameras, invert_rigid
from models.gaussians import Gaussians
from models.rendering.render import render

MIN_VIEWS = 9
COVERED_ALPHA = 0.5
MIN_COVERED = 0.1
"""Share of a view that must show something, for its median depth to be believed."""


def cut_into_clips(num_views: int, clip_frames: int) -> list[range]:
    """The views of each clip: `clip_frames` of them, fewer in the last, sharing one with the next.

    Raises UserError where the path's length is not 8k+1 from 9 on: the video autoencoder has no other clips.
    """
    if num_views < MIN_VIEWS or num_views % 8 != 1:
        below = max(MIN_VIEWS, (num_views - 1) // 8 * 8 + 1)
        raise UserError(
            f"the camera path has {num_views} views; a video has 8k+1 frames from {MIN_VIEWS} on: take {below}"
            f" or {below + 8}"
        )
    step = clip_frames - 1
    return [
        range(start, min(start + clip_frames, num_views)) for start in range(0, num_views - 1, step)
    ]


def clip_cameras(path: Cameras, views: range, unit: float) -> Cameras:
    """A clip's cameras in its own axes and unit; `unit` is how many of the path's units make one."""
    clip = path.select(list(views)).to(torch.float64).relative_to(0).rescaled(unit)
    return clip.to(path.world_to_camera.dtype)


def redirect_path(path: Cameras, views: range, found: Cameras, unit: float) -> Cameras:
    """The path with a clip's cameras where they were found, and what comes after them carried along.

    found: one camera a view of the clip, relative to the first, in its own unit.
    """
    here = path.world_to_camera.double()
    local = found.to(torch.float64).relative_to(0).rescaled(1 / unit).world_to_camera
    moved, last = here.clone(), views[-1]
    moved[views[1] : last + 1] = local[1:].to(here.device) @ here[views[0]]
    onwards = here[last + 1 :] @ invert_rigid(here[last])
    moved[last + 1 :] = onwards @ moved[last]
    return replace(path, world_to_camera=moved.to(path.world_to_camera.dtype))


def place_clip(gaussians: Gaussians, first: Cameras, unit: float) -> Gaussians:
    """A clip's Gaussians in the axes and the unit of the path; `first` is the clip's first camera there."""
    to_path = first.camera_to_world[0].to(gaussians.means)
    return gaussians.transform(to_path[:3, :3], to_path[:3, 3], unit)


def median_depth(gaussians: Gaussians, camera: Cameras) -> float | None:
    """Median depth of a scene in one view; None where too little of the view shows any of it."""
    drawn = render(gaussians, camera)
    covered = drawn.alpha > COVERED_ALPHA
    if float(covered.float().mean()) < MIN_COVERED:
        return None
    return float(drawn.expected_depth[covered].median())
