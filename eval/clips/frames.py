"""What `score CLIP` may name: the frames of any method with the cameras that they should have been taken from.

Frames keep their size and number: whatever is done to them changes the scores, so it is only done where it is
asked for, to frames and reference alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.images import list_images, read_image, resize_and_crop
from data.importers.nerfstudio import native_size, read_nerfstudio
from data.importers.video import iterate_video
from eval.cameras.commanded import commanded_cameras
from eval.clips.frame_sources import (
    clip_items,
    content_hash,
    entry_called,
    is_camera_file,
    kind_of,
)
from eval.images.frame_checks import check_num_frames

MAX_BYTES = 6 * 2**30
"""Frames of one clip may take so much memory; more is refused before it is reached."""


@dataclass(frozen=True)
class FrameOptions:
    """What goes with the frames. A folder of several clips is matched by name with folders of these.

    cameras: a file of any camera path format, a `transforms.json` or a COLMAP model. reference: real frames of the
    same views. input: the image that a model was given. size: height and width that frames and reference are
    resized and cropped to; None keeps them. fov_deg: vertical field of view, for camera files that tell none.
    """

    cameras: Path | None = None
    reference: Path | None = None
    input: Path | None = None
    size: tuple[int, int] | None = None
    fov_deg: float | None = None


@dataclass(frozen=True)
class ScoredFrames:
    """One clip to score.

    frames: in [0, 1]. cameras: float64, one a frame, in their file's axes and unit; None where none are told.
    reference: the real frames of the same views. input: the input view, of the frames' size.
    notes: what was decided in reading them.
    """

    source: str
    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras | None
    reference: Float[Tensor, "u 3 g v"] | None
    input: Float[Tensor, "3 h w"] | None
    notes: tuple[str, ...] = ()


class FrameFiles:
    """The clips of a path, by number, in order of their names.

    Raises UserError where the path, or one of those that go with it, is nothing that can be read.
    """

    def __init__(self, path: Path, options: FrameOptions) -> None:
        self.path, self.options = path, options
        for name in ("cameras", "reference", "input"):
            given: Path | None = getattr(options, name)
            if given is not None and not given.exists():
                raise UserError(f"--{name} {given}: no such file or folder")
        self.items: list[tuple[str, Path, int | None]] = list(clip_items(path))
        self.is_several = kind_of(path) in ("several", "shards")
        names = [name for name, _, _ in self.items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"{path}: two clips are called {twice[0]!r}, and cameras and references are matched by name;"
                " rename one"
            )
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self.items)

    def name(self, number: int) -> str:
        """What a clip is called."""
        return self.items[number][0]

    def load(self, number: int) -> ScoredFrames:
        """A clip with all that goes with it; raises UserError where something is missing or can't be read."""
        name, path, index = self.items[number]
        options = self.options
        found = _read(path, index, options.size)
        check_num_frames(found.frames, name)
        notes: list[str] = []
        cameras, reference = found.cameras, None
        if (file := self._beside("reference", name)) is not None:
            shard = number if kind_of(file) == "shards" else None
            truth = _read(file, shard, options.size)
            reference = truth.frames
            same = len(truth.frames) == len(found.frames)
            if cameras is None and options.cameras is None and truth.cameras is not None and same:
                cameras = truth.cameras
                notes.append("the cameras are those of the reference")
        if (file := self._beside("cameras", name)) is not None:
            height, width = found.frames.shape[-2:]
            cameras, said = _cameras_of(
                file, number, len(found.frames), (height, width), options.fov_deg
            )
            notes += said
        image = None
        if (file := self._beside("input", name)) is not None:
            image, _ = resize_and_crop(read_image(file), *found.frames.shape[-2:])
        return ScoredFrames(name, found.frames, cameras, reference, image, tuple(notes))

    def _beside(self, what: str, name: str) -> Path | None:
        """The file that goes with a clip; raises UserError where there is a folder of them, but not its."""
        given: Path | None = getattr(self.options, what)
        if given is None:
            return None
        if not self.is_several:
            return given
        if what != "input" and given.is_dir() and kind_of(given, strict=False) == "shards":
            return given
        if given.is_dir() and (own := entry_called(given, name)) is not None:
            return own
        if what == "cameras" and is_camera_file(given):
            return given
        if given.is_dir():
            raise UserError(f"{name}: {given} has no {what} of that name")
        raise UserError(
            f"{name}: --{what} {given} is a single file; with several clips, give a folder with one for each,"
            " of the clips' names"
        )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        options = self.options
        digest.update(repr((self.is_several, options.size, options.fov_deg)).encode())
        for path in (self.path, options.cameras, options.reference, options.input):
            digest.update(b"-" if path is None else content_hash(path))
        return digest.hexdigest()


@dataclass(frozen=True)
class _Read:
    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras | None


def _read(path: Path, index: int | None, size: tuple[int, int] | None) -> _Read:
    kind = kind_of(path)
    if kind == "shards":
        return _resized(_path_frames(_shard_clip(path, index)), size)
    if kind == "capture":
        height, width = size or native_size(path)
        return _path_frames(read_nerfstudio(path, height, width))
    if kind == "several":
        raise UserError(f"{path} holds several clips; name the one that is meant")
    images = iterate_video(path) if kind == "video" else _iterate_images(list_images(path))
    return _Read(_stacked(images, str(path), size), None)


def _cameras_of(
    path: Path, number: int, num_frames: int, size: tuple[int, int], fov_deg: float | None
) -> tuple[Cameras, list[str]]:
    """The cameras of a file, or of clip `number` of a shard folder, and what to say about how they were read."""
    if kind_of(path, strict=False) != "shards":
        return commanded_cameras(path, num_frames, size, fov_deg)
    cameras = _read(path, number, size).cameras
    assert cameras is not None
    if cameras.num_views != num_frames:
        raise UserError(
            f"{path}: clip {number} has {cameras.num_views} cameras for {num_frames} frames; expected one camera a"
            " frame, in the frames' order"
        )
    return cameras, []


def _shard_clip(path: Path, index: int | None) -> Clip:
    from data.shard_index import ShardIndex
    from data.shards import read_clip

    shards = ShardIndex.load(path)
    if index is None or index >= len(shards):
        raise UserError(
            f"{path} is a shard folder of {len(shards)} clips; it goes with shards of as many clips"
        )
    return read_clip(shards, index)


def _path_frames(clip: Clip) -> _Read:
    """The frames along the clip's path; views beside it are not neighbours of anything."""
    path = clip.select(range(clip.num_path_frames))
    return _Read(path.frames, path.cameras.to(torch.float64))


def _resized(found: _Read, size: tuple[int, int] | None) -> _Read:
    if size is None or tuple(found.frames.shape[-2:]) == size:
        return found
    assert found.cameras is not None
    pairs = [resize_and_crop(frame, *size) for frame in found.frames]
    matrix = pairs[0][1]
    cameras = Cameras(
        found.cameras.world_to_camera, matrix @ found.cameras.intrinsics, size[0], size[1]
    )
    return _Read(torch.stack([frame for frame, _ in pairs]), cameras)


def _iterate_images(paths: Iterable[Path]) -> Iterator[Float[Tensor, "3 h w"]]:
    return (read_image(path) for path in paths)


def _stacked(
    images: Iterator[Float[Tensor, "3 h w"]], source: str, size: tuple[int, int] | None
) -> Float[Tensor, "t 3 h w"]:
    """All frames in one tensor; raises UserError where they differ in size or take too much memory."""
    first = next(images)
    shape = tuple(first.shape[-2:])
    most = MAX_BYTES // (12 * (size or shape)[0] * (size or shape)[1])

    def fitted(number: int, image: Tensor) -> Tensor:
        if tuple(image.shape[-2:]) != shape:
            here = f"{image.shape[-2]}x{image.shape[-1]}"
            raise UserError(
                f"{source}: frame {number} is {here}, frame 0 {shape[0]}x{shape[1]}; expected frames of one size"
            )
        return image if size is None else resize_and_crop(image, *size)[0]

    rest = islice(images, most)
    frames = [fitted(0, first), *(fitted(n, image) for n, image in enumerate(rest, start=1))]
    if len(frames) > most:
        raise UserError(
            f"{source}: more than {most} frames of {shape[0]}x{shape[1]} do not fit into memory; score a shorter"
            " video, or give a smaller size=[HEIGHT, WIDTH]"
        )
    return torch.stack(frames)
