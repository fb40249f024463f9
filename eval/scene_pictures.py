"""The pictures that a scene came from, which it is tied to and judged by: its image, and its video if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.importers.photo import open_photo
from eval.clips.frames import FrameFiles, FrameOptions
from eval.scene_source import CAMERAS_NAME, SceneSource

CLIP_NAME = "clip"
"""Of the folder of frames that `generate` writes beside its scene."""


@dataclass(frozen=True)
class ScenePictures:
    """frames: one a view of the scene's path, or the first alone. judge_only: all but the first are to judge by."""

    frames: Float[Tensor, "v 3 h w"]
    judge_only: bool = False


def read_pictures(
    source: SceneSource, path: Cameras, image: Path, clip: Path | None = None
) -> ScenePictures:
    """The image at a scene's first camera, and frames at the others.

    path: the scene's own. clip: its video; None takes the one that `generate` wrote beside the scene, if it is there,
    to judge by alone. Raises UserError for what can't be read, and for a video of another length.
    """
    frames = open_photo(image, path.height, path.width).frame[None]
    found = clip or video_beside(source)
    if found is None:
        return ScenePictures(frames)
    files = FrameFiles(found, FrameOptions(size=(path.height, path.width)))
    if files.is_several:
        raise UserError(
            f"{found} holds several clips; expected the one video that the scene was made with: name it with --frames"
        )
    video = files.load(0).frames
    if len(video) != path.num_views:
        raise UserError(
            f"{found} has {len(video)} frames, but the path of {source.file} has {path.num_views} cameras; expected"
            " the video that the scene was made with, a frame for each: name it with --frames"
        )
    return ScenePictures(torch.cat([frames, video[1:]]), clip is None and len(video) > 1)


def video_beside(source: SceneSource) -> Path | None:
    """The frames that `generate` wrote beside its scene, where they and its cameras are there."""
    clip = source.file.parent / CLIP_NAME
    ours = source.cameras_file == source.file.parent / CAMERAS_NAME
    return clip if ours and (clip / "transforms.json").is_file() else None
