"""Where the images come from that clips are generated from: photographs, clips of shards, procedural scenes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from configs.errors import UserError
from data.cameras import Cameras
from data.importers.images import IMAGE_SUFFIXES
from data.importers.photo import Photo, open_photo
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex, index_file, unfinished_file
from data.shards import open_clip

PROCEDURAL = "procedural"


@dataclass(frozen=True)
class FirstFrame:
    """An image with its camera, and the path that the camera took from there, where one is known."""

    photo: Photo
    path: Cameras | None = None


@runtime_checkable
class FirstFrames(Protocol):
    """Images by number, without end: a finite set starts again after its last one."""

    has_paths: bool

    def load(self, number: int) -> FirstFrame:
        """Image `number` at the size that was asked for; raises UserError where it can't be used."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the images are, JSON-like: equal descriptions mean equal images."""
        ...


class PhotoFolder:
    """The photographs in a folder, in the order of their names."""

    has_paths = False

    def __init__(self, folder: Path, height: int, width: int) -> None:
        self.folder, self.size = folder, (height, width)
        self.files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self.files:
            raise UserError(
                f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no shards"
            )

    def load(self, number: int) -> FirstFrame:
        return FirstFrame(open_photo(self.files[number % len(self.files)], *self.size))

    def describe(self) -> dict[str, Any]:
        listed = "\n".join(f"{path.name} {path.stat().st_size}" for path in self.files)
        digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
        return {"kind": "photographs", "count": len(self.files), "names_and_sizes": digest}


class ShardFrames:
    """The first frames of a shard folder's clips, and the paths that were really taken."""

    has_paths = True

    def __init__(self, folder: Path, height: int, width: int, num_frames: int) -> None:
        self.index, self.num_frames = ShardIndex.load(folder), num_frames
        if (self.index.height, self.index.width) != (height, width):
            raise UserError(
                f"{folder}: frames are {self.index.height}x{self.index.width}, but the video model was trained"
                f" on {height}x{width}; prepare shards of that size"
            )

    def load(self, number: int) -> FirstFrame:
        clip = open_clip(self.index, number % len(self.index))
        first = clip.load([0], depth=False)
        path = None
        if clip.num_path_frames >= self.num_frames:
            path = clip.cameras.select(list(range(self.num_frames)))
        return FirstFrame(Photo(first.frames[0], first.cameras, clip.source), path)

    def describe(self) -> dict[str, Any]:
        return {"kind": "shards", "count": len(self.index), "content": self.index.fingerprint[:16]}


class ProceduralFrames:
    """The first frames of procedural clips: image i is that of seed `first_seed` + i."""

    has_paths = True

    def __init__(self, first_seed: int, height: int, width: int, num_frames: int) -> None:
        self.first_seed = first_seed
        self.scene = SceneConfig(
            height=height, width=width, num_frames=num_frames, num_near=0, num_far=0
        )

    def load(self, number: int) -> FirstFrame:
        clip = make_clip(self.first_seed + number, self.scene)
        return FirstFrame(Photo(clip.frames[0], clip.cameras.select(0), clip.source), clip.cameras)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": PROCEDURAL,
            "first_seed": self.first_seed,
            "scene": self.scene.model_dump(mode="json"),
        }


def open_first_frames(
    source: str, *, height: int, width: int, num_frames: int, first_seed: int
) -> FirstFrames:
    """The images that `source` names: "procedural", a shard folder, or a folder of photographs.

    num_frames: of the clips that will be made; first_seed: of procedural images.
    Raises UserError where it is none of these, or of another size.
    """
    if source == PROCEDURAL:
        return ProceduralFrames(first_seed, height, width, num_frames)
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"{source}: no such folder; expected a folder of photographs, a shard folder, or {PROCEDURAL!r}"
        )
    if any((folder / name).is_file() for name in (index_file(), unfinished_file())):
        return ShardFrames(folder, height, width, num_frames)
    return PhotoFolder(folder, height, width)
