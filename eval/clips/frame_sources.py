"""What a path holds that `score CLIP` is given: clips by name, and one hash of their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from data.importers.images import IMAGE_SUFFIXES, list_images, natural_order
from data.importers.nerfstudio import FILE_NAMES
from eval.clip_source import INDEX_FILE, VIDEO_SUFFIXES

CAMERA_SUFFIXES = {".json", ".txt", ".bin"}
EXPECTED = (
    "a video, a folder of frames, a capture with transforms.json, a shard folder made by `prepare`, or a folder"
    " of several of these"
)


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


def clip_items(path: Path) -> Iterator[tuple[str, Path, int | None]]:
    """The clips of a path in order of their names: name, path, and number in it where it is a shard folder."""
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


def entry_called(folder: Path, name: str) -> Path | None:
    """The entry of a folder that has this name, with whatever ending; the shortest where there are more."""
    found = [
        path
        for path in folder.iterdir()
        if path.name == name or (path.is_file() and path.stem == name)
    ]
    return min(found, key=lambda path: (len(path.name), path.name)) if found else None


def is_camera_file(path: Path) -> bool:
    """Whether a path holds the cameras of one clip, in whatever format, and not those of several by name."""
    if path.is_file():
        return True
    return any((path / name).is_file() for name in FILE_NAMES) or any(path.rglob("cameras.*"))


def content_hash(path: Path) -> bytes:
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
