"""What `reconstruct CLIP` may name, and the one clip that comes of it: given frames first, then held-out views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.clip_cutting import cut_capture
from data.clips import Clip
from data.importers.posed_images import Progress
from data.scene_depth import sweep_depth

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
INDEX_FILE = "index.json"
MUCH_SHORTER = 0.7
"""Views are put into a new order where that makes the way through them shorter by this factor."""


@dataclass(frozen=True)
class CutOptions:
    """How one clip is cut from a longer capture.

    num_frames: frames that go in, 8k+1. stride: capture frames from one to the next. number: which clip of
    those that the capture yields, or of a shard folder. num_held_out: views kept back to judge by, at most.
    """

    height: int = 64
    width: int = 96
    num_frames: int = 17
    stride: int = 1
    number: int = 0
    num_held_out: int = 8


def open_clip_source(
    path: Path,
    options: CutOptions,
    *,
    cameras: Path | None = None,
    images: Path | None = None,
    progress: Progress | None = None,
) -> Clip:
    """One normalised clip from a shard folder, a capture with cameras, or a video with a cameras file.

    cameras: `transforms.json` of a video, one entry a frame. images: image folder of a COLMAP model.
    A capture whose views are not in the order of a path (photos often are not) is put in order first.
    Raises UserError for whatever is wrong with it, and for a clip number that is not there.
    """
    if (path / INDEX_FILE).is_file() or path.name == INDEX_FILE:
        return _read_shard_clip(path if path.is_dir() else path.parent, options.number)
    capture = _read_capture(path, options, cameras, images, progress)
    order = path_order(capture.normalised().cameras)
    clips = cut_capture(
        capture.select(order), options.num_frames, options.stride, options.num_held_out
    ).clips
    return scaled_by_sweep(clips[_checked_number(options.number, len(clips), str(path))])


def open_capture(
    path: Path,
    options: CutOptions,
    *,
    cameras: Path | None = None,
    images: Path | None = None,
    progress: Progress | None = None,
) -> Clip:
    """All frames of what `open_clip_source` takes, as one clip in the order of the source, its scene about 1 away.

    Of a shard folder it is one clip, by number. Raises UserError as `open_clip_source`.
    """
    if (path / INDEX_FILE).is_file() or path.name == INDEX_FILE:
        return _read_shard_clip(path if path.is_dir() else path.parent, options.number)
    return scaled_by_sweep(_read_capture(path, options, cameras, images, progress).normalised())


def scaled_by_sweep(clip: Clip) -> Clip:
    """The clip with about 1 for the scene's depth, which a plane sweep tells where no depth is known.

    It sees the path frames alone. Where it finds nothing, the unit of length stays.
    """
    if clip.depth is not None:
        return clip
    given = clip.select(range(clip.num_path_frames))
    depth = sweep_depth(given.frames, given.cameras)
    return clip if depth is None else clip.normalised(depth)


def path_order(cameras: Cameras) -> list[int]:
    """The order in which the views lie along a path: as they are, or by going to the nearest each time.

    Distance is that of `view_distances`. The new order is only taken where its way is `MUCH_SHORTER`; it
    is the shortest of those that start at any view.
    """
    distances = view_distances(cameras)
    as_they_are = list(range(cameras.num_views))
    found = min(
        (_greedy_order(distances, start) for start in as_they_are),
        key=lambda order: _length(distances, order),
    )
    shorter = _length(distances, found) < MUCH_SHORTER * _length(distances, as_they_are)
    return found if shorter else as_they_are


def view_distances(cameras: Cameras) -> Float[Tensor, "view view"]:
    """How far views are apart: the move of the camera and of what stands one scene unit ahead of it."""
    to_world = cameras.camera_to_world.double()
    centres, forward = to_world[:, :3, 3], to_world[:, :3, 2]
    marks = torch.cat([centres, centres + forward], dim=1)
    return torch.cdist(marks, marks)


def _greedy_order(distances: Float[Tensor, "view view"], start: int) -> list[int]:
    left = torch.ones(len(distances), dtype=torch.bool)
    order = [start]
    left[start] = False
    while left.any():
        nearest = int(distances[order[-1]].masked_fill(~left, torch.inf).argmin())
        order.append(nearest)
        left[nearest] = False
    return order


def _length(distances: Float[Tensor, "view view"], order: list[int]) -> float:
    return float(distances[order[:-1], order[1:]].sum())


def _read_shard_clip(folder: Path, number: int) -> Clip:
    from data.shard_index import ShardIndex
    from data.shards import read_clip

    index = ShardIndex.load(folder)
    return scaled_by_sweep(read_clip(index, _checked_number(number, len(index), str(folder))))


def _checked_number(number: int, count: int, source: str) -> int:
    if not 0 <= number < count:
        raise UserError(f"{source} has {count} clips, numbered from 0; there is no clip {number}")
    return number


def _read_capture(
    path: Path,
    options: CutOptions,
    cameras: Path | None,
    images: Path | None,
    progress: Progress | None,
) -> Clip:
    """The whole capture, not normalised, at the wanted size."""
    from data.importers.nerfstudio import FILE_NAMES, read_nerfstudio

    height, width = options.height, options.width
    if path.suffix.lower() in VIDEO_SUFFIXES:
        if cameras is None:
            raise UserError(
                f"{path} is a video and tells no cameras; name its transforms.json with --cameras, or let"
                f" structure from motion place its frames: ./launch.sh prepare video {path} --out FOLDER,"
                " then reconstruct FOLDER"
            )
        from eval.video_capture import read_video_with_cameras

        return read_video_with_cameras(path, cameras, height, width)
    if path.suffix.lower() == ".json" or any((path / name).is_file() for name in FILE_NAMES):
        return read_nerfstudio(path, height, width, find_depth=True, progress=progress)
    if any(path.rglob("cameras.bin")) or any(path.rglob("cameras.txt")):
        from data.capture_reading import find_images
        from data.importers.colmap import read_colmap

        return read_colmap(path, images or find_images(path), height, width, progress=progress)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    raise UserError(
        f"{path} holds no cameras: expected a shard folder ({INDEX_FILE}), transforms.json, a COLMAP model"
        " (cameras.bin), or a video with --cameras; for photos alone, ./launch.sh prepare photos finds"
        " the cameras"
    )
