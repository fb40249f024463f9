"""The video of a scene: along the clip's own path, then beyond it, colour beside depth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from data.camera_interpolation import interpolate_cameras
from data.camera_paths import make_path
from data.cameras import Cameras, concatenate_cameras
from eval.pages.pictures import color_depth, depth_range
from eval.reconstruction import render_scene
from models.gaussians import Gaussians

FPS = 24
PATH_SECONDS, RETURN_SECONDS, BEYOND_SECONDS = 3.0, 1.0, 4.0
BEYOND_PATH, BEYOND_AMPLITUDE = "spiral", 0.12
PICTURE_HEIGHT = 256
"""Frames are rendered this many pixels high, or at the clip's own size where that is larger."""


def flythrough_cameras(path: Cameras) -> Cameras:
    """Along `path`, back to its middle, and around from there, as one smooth move at `FPS`."""
    last, middle = path.num_views - 1, path.num_views // 2
    num_beyond = round(BEYOND_SECONDS * FPS)
    beyond = make_path(
        BEYOND_PATH, path.select(middle), num_beyond, BEYOND_AMPLITUDE, easing="smooth"
    )
    along = torch.linspace(0, last, round(PATH_SECONDS * FPS))
    progress = torch.linspace(0, 1, round(RETURN_SECONDS * FPS))
    back = last + (middle - last) * (3 - 2 * progress) * progress**2
    return concatenate_cameras([interpolate_cameras(path, torch.cat([along, back])), beyond])


def flythrough_frames(
    gaussians: Gaussians, cameras: Cameras, at_once: int = 8
) -> Iterator[Float[Tensor, "3 h double_w"]]:
    """Frames of the video, colour at the left and depth at the right, one after another."""
    factor = max(1, math.ceil(PICTURE_HEIGHT / cameras.height))
    cameras = cameras.resize(cameras.height * factor, cameras.width * factor)
    span = None
    for start in range(0, cameras.num_views, at_once):
        drawn = render_scene(gaussians, cameras.select(slice(start, start + at_once)))
        depth = drawn.expected_depth
        if span is None and (depth > 0).any():
            span = depth_range(depth)
        yield from torch.cat([drawn.frames, color_depth(depth, *(span or (None, None)))], dim=-1)
