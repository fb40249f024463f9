"""Reading shard folders: one clip, its stored tensors, and a check of all that is there."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from configs.errors import UserError
from data.clips import Clip
from data.shard_index import DamagedSample, ShardIndex, ShardRecord
from data.shard_samples import ShardClip, decode_members

TENSORS_MEMBER = "safetensors"


def open_clip(index: ShardIndex, number: int) -> ShardClip:
    """Clip `number` with its cameras decoded and its frames not yet; raises DamagedSample."""
    shard, sample = index.locate(number)
    tensors = functools.partial(read_tensors, index, number)
    return ShardClip(index.read_bytes(number), sample, index.folder / shard.file, tensors)


def read_clip(index: ShardIndex, number: int) -> Clip:
    """Clip `number` with all its frames, and depth where stored; raises DamagedSample."""
    return open_clip(index, number).load()


def read_tensors(index: ShardIndex, number: int, name: str) -> dict[str, Tensor]:
    """What the set of tensors `name` (precomputed latents) holds for clip `number`; DamagedSample."""
    tensors = index.tensors(name)
    shard, sample = tensors.locate(number)
    damaged = functools.partial(DamagedSample, tensors.folder / shard.file, sample.key)
    members = decode_members(tensors.read_bytes(number), sample.key, damaged)
    try:
        return safetensors.torch.load(members[TENSORS_MEMBER])
    except (KeyError, safetensors.SafetensorError) as error:
        raise damaged(f"its tensors do not decode ({error})") from error


@dataclass(frozen=True)
class Verification:
    """What a check of a shard folder found; every problem is one sentence that names the file."""

    num_shards: int
    num_clips: int
    num_bytes: int
    problems: list[str]


def verify(
    folder: str | Path, progress: Callable[[int], None] = lambda clips: None
) -> Verification:
    """Reads everything in a shard folder: hashes every shard and decodes every sample and its tensors.

    `progress` is called with the number of clips dealt with since its last call. Raises UserError where
    there is no index to hold the shards against.
    """
    index = ShardIndex.load(folder)
    problems = _check_set(index, functools.partial(_check_clip, index), progress)
    for path in sorted(index.folder.glob("*.index.json")):
        name = path.name.removesuffix(".index.json")
        tensors = index.tensors(name)
        check = functools.partial(_check_tensors, index, name)
        problems += _check_set(tensors, check, lambda samples: None)
    num_bytes = sum(shard.bytes for shard in index.content.shards)
    return Verification(len(index.content.shards), len(index), num_bytes, problems)


def _check_set(
    index: ShardIndex, check: Callable[[int], list[str]], progress: Callable[[int], None]
) -> list[str]:
    """The problems of each shard file, and those that `check` finds in each sample by its number."""
    problems: list[str] = []
    number = 0
    for shard in index.content.shards:
        path = index.folder / shard.file
        if not path.is_file():
            problems.append(
                f"{path}: the shard is missing, and its {shard.num_clips} samples with it"
            )
            number += shard.num_clips
            progress(shard.num_clips)
            continue
        problems += _check_file(path, shard)
        for _ in shard.samples:
            problems += check(number)
            number += 1
            progress(1)
    return problems


def _check_file(path: Path, shard: ShardRecord) -> list[str]:
    size = path.stat().st_size
    if size != shard.bytes:
        return [f"{path}: has {size:,} bytes, the index says {shard.bytes:,}"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        return [f"{path}: its sha256 is {digest[:12]}..., the index says {shard.sha256[:12]}..."]
    return []


def _check_tensors(index: ShardIndex, name: str, number: int) -> list[str]:
    try:
        read_tensors(index, number, name)
    except DamagedSample as error:
        return [f"{error.file}: sample {error.key}: {error.reason}"]
    return []


def _check_clip(index: ShardIndex, number: int) -> list[str]:
    try:
        clip = read_clip(index, number)
        clip.cameras.validate(f"{index.folder}: clip {number} ({clip.source})")
    except DamagedSample as error:
        return [f"{error.file}: sample {error.key}: {error.reason}"]
    except UserError as error:
        return [str(error)]
    if (clip.cameras.height, clip.cameras.width) != (index.height, index.width):
        return [
            f"{index.folder}: clip {number} ({clip.source}) is {clip.cameras.height}x"
            f"{clip.cameras.width}, the index says {index.height}x{index.width}"
        ]
    return []
