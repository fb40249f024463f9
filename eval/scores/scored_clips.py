"""The clips that a benchmark runs over: a committed list of procedural seeds, or a shard folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import ValidationError

from configs.errors import UserError
from configs.loader import Config
from data.clips import Clip
from data.procedural.config import SceneConfig


@runtime_checkable
class ScoredClips(Protocol):
    """Clips by number. Each clip's path frames go in, its extra views judge."""

    fingerprint: str
    """A sha256 that changes when the clips do."""

    def __len__(self) -> int: ...

    def load(self, number: int, num_threads: int) -> tuple[Clip, int]:
        """Clip `number`, and how many of its extra views are near ones (they come first)."""
        ...


class ProceduralIndex(Config):
    """A committed list of held-out scenes: a scene is a function of its seed and these settings."""

    seeds: tuple[int, ...]
    scene: SceneConfig


class ProceduralClips:
    """Scenes made on the fly from an index file."""

    def __init__(self, index: ProceduralIndex) -> None:
        self.index = index
        self.fingerprint = hashlib.sha256(index.model_dump_json().encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.index.seeds)

    def load(self, number: int, num_threads: int) -> tuple[Clip, int]:
        from data.procedural.clips import make_clip

        scene = self.index.scene
        return make_clip(self.index.seeds[number], scene, num_threads=num_threads), scene.num_near


class ShardClips:
    """Clips of a shard folder; all their extra views count as near."""

    def __init__(self, folder: Path) -> None:
        from data.shard_index import ShardIndex

        self.shards = ShardIndex.load(folder)
        self.fingerprint = self.shards.fingerprint

    def __len__(self) -> int:
        return len(self.shards)

    def load(self, number: int, num_threads: int) -> tuple[Clip, int]:
        from data.shards import read_clip

        clip = read_clip(self.shards, number)
        return clip, clip.num_frames - clip.num_path_frames


class PathPairs:
    """The two clips of each scene of an index file: of its own path and the mirrored one."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder; expected an index of seeds (.json): the mirrored path needs the truth of views"
                " that no recording has. To score videos of recorded clips, make them with `prepare generated --images"
                f" {path} --paths own`, then `score` those with --reference {path}"
            )
        self.index = read_index(path)
        content = f"path pairs {self.index.model_dump_json()}"
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.index.seeds)

    def load(self, number: int, num_threads: int) -> tuple[Clip, Clip]:
        from data.procedural.path_pairs import make_path_pair

        return make_path_pair(self.index.seeds[number], self.index.scene, num_threads=num_threads)


def open_scored_clips(path: Path) -> ScoredClips:
    """The clips of an index file (`*.json`) or a shard folder; raises UserError for anything else."""
    return (
        ShardClips(path) if path.is_dir() else ProceduralClips(read_index(path, "a shard folder"))
    )


def read_index(path: Path, alternative: str | None = None) -> ProceduralIndex:
    """The scenes of an index file; raises UserError, which names what else `path` might be."""
    if not path.is_file():
        expected = "an index of seeds (.json)" + (f" or {alternative}" if alternative else "")
        raise UserError(f"{path}: no such file; expected {expected}")
    try:
        index = ProceduralIndex.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: key {where!r}: {first['msg']}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not a JSON file ({error})") from error
    if not index.seeds:
        raise UserError(f"{path}: 'seeds' is empty; expected at least one")
    return index
