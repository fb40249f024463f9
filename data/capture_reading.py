"""Any kind of capture that `prepare` takes becomes one long clip, with an account of what it took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from data.clips import Clip
from data.importers.posed_images import Progress

MAX_VIDEO_FRAMES = 120
"""Video frames that are placed at most by default: beyond, structure from motion takes many minutes."""


@dataclass(frozen=True)
class CaptureOptions:
    """What only some kinds of capture need.

    images: image folder of a COLMAP model; None looks for `images` beside it.
    every: take every so-manieth frame of a video. max_video_frames: and so many at most.
    ordered: photos follow each other as in a video.
    """

    images: Path | None = None
    every: int = 1
    max_video_frames: int = MAX_VIDEO_FRAMES
    ordered: bool = False


def read_capture(
    kind: str, path: Path, height: int, width: int, options: CaptureOptions, progress: Progress
) -> tuple[Clip, dict[str, str]]:
    """The capture as one clip, not normalised, and rows for the report (how many photos were placed).

    kind: "transforms", "colmap", "photos" or "video". Raises UserError for whatever is wrong with it.
    """
    if kind == "transforms":
        from data.importers.nerfstudio import read_nerfstudio

        return read_nerfstudio(path, height, width, find_depth=True, progress=progress), {}
    if kind == "colmap":
        from data.importers.colmap import read_colmap

        images = options.images or find_images(path)
        return read_colmap(path, images, height, width, progress=progress), {}
    if kind == "photos":
        from data.importers.photos import reconstruct_photos

        clip, report = reconstruct_photos(
            path, height, width, ordered=options.ordered, progress=progress
        )
        return clip, {"registration": report.describe()}
    assert kind == "video", kind
    from data.importers.photos import reconstruct_video

    clip, report = reconstruct_video(
        path,
        height,
        width,
        max_frames=options.max_video_frames,
        stride=options.every,
        progress=progress,
    )
    return clip, {"registration": report.describe()}


def find_images(model: Path) -> Path:
    """The folder `images` in or up to three folders above a COLMAP model."""
    for folder in [model.absolute(), *model.absolute().parents[:3]]:
        if (folder / "images").is_dir():
            return folder / "images"
    raise UserError(f"{model}: no folder 'images' in it or above it; name it with --images")
