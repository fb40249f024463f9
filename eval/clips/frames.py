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
from data.importers.images import (
    IMAGE_SUFFIXES,
    list_images,
    natural_order,
    read_image,
    resize_and_crop,
)
from data.importers.nerfstudio import FILE_NAMES, native_size, read_nerfstudio
from data.importers.video import iterate_video
from eval.cameras.commanded import commanded_cameras
from eval.clip_source import INDEX_FILE, VIDEO_SUFFIXES

MAX_BYTES = 6 * 2**30
"""Frames of one clip may take so much memory; more is refused before it is reached."""
CAMERA_SUFFIXES = {".json", ".txt", ".bin"}
EXPECTED = (
    "a video, a folder of frames, a capture with transforms.json, a shard folder made by `prepare`, or a folder"
    " of several of these"
)


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
        self.items: list[tuple[str, Path, int | None]] = list(_items(path))
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
            cameras, said = commanded_cameras(
                file, len(found.frames), (height, width), options.fov_deg
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
        if given.is_dir() and (own := _called(given, name)) is not None:
            return own
        if what == "cameras" and _is_camera_file(given):
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
            digest.update(b"-" if path is None else _content_hash(path))
        return digest.hexdigest()


def kind_of(path: Path, strict: bool = True) -> str:
    """What a path holds: video, images, capture, shards or several.

    Raises UserError, or returns an empty string where not `strict`, for anything else.
    """
    found = ""
    if path.is_file():
        suffix = path.suffix.lower()
        found = "video" if suffix in VIDEO_SUFFIXES else "capture" if suffix == ".json" else ""
    elif path.is_dir():
        found = _kind_of_folder(path)
    if found or not strict:
        return found
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected {EXPECTED}")
    raise UserError(f"{path}: there are no frames in it; expected {EXPECTED}")


def _kind_of_folder(path: Path) -> str:
    if (path / INDEX_FILE).is_file():
        return "shards"
    if any((path / name).is_file() for name in FILE_NAMES):
        return "capture"
    if list_images(path):
        return "images"
    return "several" if _children(path) else ""


def _children(folder: Path) -> list[Path]:
    """The clips in a folder, by name; of folders below it only those that are a clip themselves."""
    return [
        path
        for path in sorted(folder.iterdir(), key=lambda path: natural_order(path.name))
        if not path.name.startswith(".")
        and (
            path.suffix.lower() in VIDEO_SUFFIXES
            or (path.is_dir() and _kind_of_folder(path) in ("capture", "images"))
        )
    ]


def _items(path: Path) -> Iterator[tuple[str, Path, int | None]]:
    kind = kind_of(path)
    if kind == "several":
        yield from ((_name(child), child, None) for child in _children(path))
    elif kind == "shards":
        from data.shard_index import ShardIndex

        yield from ((f"clip_{n:05d}", path, n) for n in range(len(ShardIndex.load(path))))
    else:
        yield _name(path), path, None


def _name(path: Path) -> str:
    if path.suffix.lower() == ".json" and path.is_file():
        return path.absolute().parent.name
    return path.absolute().stem if path.is_file() else path.absolute().name


def _called(folder: Path, name: str) -> Path | None:
    """The entry of a folder that has this name, with whatever ending; the shortest where there are more."""
    found = [
        path
        for path in folder.iterdir()
        if path.name == name or (path.is_file() and path.stem == name)
    ]
    return min(found, key=lambda path: (len(path.name), path.name)) if found else None


def _is_camera_file(path: Path) -> bool:
    if path.is_file():
        return True
    return any((path / name).is_file() for name in FILE_NAMES) or any(path.rglob("cameras.*"))


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


def _content_hash(path: Path) -> bytes:
    """One hash over the names and contents of a file, or of all frames and cameras in a folder."""
    if path.is_dir() and (path / INDEX_FILE).is_file():
        return hashlib.sha256((path / INDEX_FILE).read_bytes()).digest()
    if path.is_file() and path.suffix.lower() == ".json":
        # What a transforms.json names lies beside it.
        root, files = path.parent, [path, *_frame_files(path.parent)]
    elif path.is_file():
        root, files = path.parent, [path]
    else:
        root, files = path, _frame_files(path)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.digest()


def _frame_files(folder: Path) -> list[Path]:
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES | CAMERA_SUFFIXES
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
