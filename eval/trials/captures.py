"""The real captures that a trial runs over: which of them are there, and their views."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.clips import Clip
from data.importers.nerfstudio import native_size, read_nerfstudio
from eval.clip_source import path_order
from eval.clips.frame_sources import content_hash

FILE = "transforms.json"


@dataclass(frozen=True)
class Captures:
    """Folders with transforms.json: those that are there, and the names of the others."""

    paths: tuple[Path, ...]
    left_out: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """One hash over the files of those that are there."""
        found = hashlib.sha256()
        for path in self.paths:
            found.update(content_hash(path))
        return found.hexdigest()


def find_captures(paths: Sequence[Path]) -> Captures:
    """Which of the folders are captures with cameras."""
    there = [path for path in paths if (path / FILE).is_file()]
    return Captures(tuple(there), tuple(path.name for path in paths if path not in there))


def read_capture_views(path: Path, size: tuple[int, int], num_views: int) -> Clip:
    """The first views along the path of a capture with cameras, at the given height and width."""
    capture = read_nerfstudio(path, *size)
    order = path_order(capture.normalised().cameras)[:num_views]
    return replace(capture.select(order).normalised(), source=path.name)


def size_with_long_side(path: Path, long_side: int) -> tuple[int, int]:
    """Height and width of a capture's views in their own proportions, the longer side `long_side` at most."""
    height, width = native_size(path)
    shrink = min(1.0, long_side / max(height, width))
    return round(shrink * height), round(shrink * width)
