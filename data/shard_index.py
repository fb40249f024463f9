"""The index of a shard folder: what is in which tar file, where, and what it must hash to.

folder/
  index.json           written last; a folder without it isn't finished
  shard-000000.tar     WebDataset tar, one clip a sample
  NAME-000000.tar      optional tensors of the same clips (latents), indexed by NAME.index.json
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import zlib
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from configs.errors import UserError
from configs.loader import Config

VERSION = 1
MAX_OPEN_FILES = 32
CLIPS = "shard"
"""The set of the clips themselves; any other name is a set of tensors that belongs to them."""


def index_file(name: str = CLIPS) -> str:
    """The index of the clips, or of the set of tensors `name`."""
    return "index.json" if name == CLIPS else f"{name}.index.json"


def unfinished_file(name: str = CLIPS) -> str:
    """The index of the shards that are finished, while others are still to be written."""
    return "unfinished.json" if name == CLIPS else f"{name}.unfinished.json"


class SampleFormat(Config):
    """How a clip is stored: frames as PNG (exact to 8 bits) or JPEG, depth as float16, float32 or not."""

    image: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    depth: Literal["float16", "float32", "none"] = "float16"


class SampleRecord(Config):
    """Where one sample lies in its shard (bytes) and the CRC-32 of those bytes."""

    key: str = Field(pattern=r"^[0-9A-Za-z_-]+$")
    offset: int = Field(ge=0)
    size: int = Field(gt=0)
    crc32: int = Field(ge=0, lt=2**32)
    num_frames: int = Field(ge=0)
    num_path_frames: int = Field(ge=0)


class ShardRecord(Config):
    file: str = Field(pattern=r"^[0-9A-Za-z_-]+\.tar$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    num_clips: int = Field(gt=0)
    samples: tuple[SampleRecord, ...]


class IndexContent(Config):
    """What an index file holds.

    recipe: how the content was made; writing is resumed only with the same one.
    format: how clips are stored; None in a set of tensors.
    """

    version: int
    num_clips: int
    height: int
    width: int
    format: SampleFormat | None
    recipe: dict[str, Any]
    shards: tuple[ShardRecord, ...]

    def to_json(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


class DamagedSample(UserError):
    """A sample that can't be trusted or read: which file, which key, and why."""

    def __init__(self, file: Path, key: str, reason: str) -> None:
        super().__init__(
            f"{file}: sample {key} is damaged: {reason}; see `./launch.sh prepare --check"
            f" {file.parent}` for all of them"
        )
        self.file, self.key, self.reason = file, key, reason


class ShardIndex:
    """A finished shard folder: `len()` clips, found by number, each read by one seek."""

    def __init__(self, folder: Path, content: IndexContent) -> None:
        self.folder = folder
        self.content = content
        self._open_files: OrderedDict[str, int] = OrderedDict()
        self._tensors: dict[str, ShardIndex] = {}

    @classmethod
    def load(cls, folder: str | Path, name: str = CLIPS) -> ShardIndex:
        """The index of the clips in `folder`, or of the set of tensors `name`; checked against itself.

        The shards are not opened: a missing or damaged one shows when a sample of it is read.
        Raises UserError where the folder is missing, unfinished, or its index is not one of ours.
        """
        folder = Path(folder)
        path = folder / index_file(name)
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder of shards; make one with `./launch.sh prepare`"
            )
        if not path.is_file():
            if (folder / unfinished_file(name)).is_file():
                raise UserError(
                    f"{folder}: its shards are unfinished; run the same `prepare` with --resume"
                )
            raise UserError(
                f"{folder}: has no {path.name}; expected a folder made by `./launch.sh prepare`"
            )
        return cls(folder, read_content(path))

    def __len__(self) -> int:
        return self.content.num_clips

    @property
    def height(self) -> int:
        return self.content.height

    @property
    def width(self) -> int:
        return self.content.width

    def locate(self, number: int) -> tuple[ShardRecord, SampleRecord]:
        """Shard and sample of clip `number`, counted from 0; IndexError past the end."""
        if not 0 <= number < len(self):
            raise IndexError(f"{self.folder} has {len(self)} clips, asked for number {number}")
        shard = bisect.bisect_right(self._first_clips, number) - 1
        record = self.content.shards[shard]
        return record, record.samples[number - self._first_clips[shard]]

    def read_bytes(self, number: int) -> bytes:
        """The raw bytes of sample `number`, checked against its CRC; DamagedSample otherwise."""
        shard, sample = self.locate(number)
        path = self.folder / shard.file
        try:
            content = os.pread(self._descriptor(shard.file), sample.size, sample.offset)
        except FileNotFoundError:
            raise DamagedSample(path, sample.key, "the shard is missing") from None
        except OSError as error:
            raise DamagedSample(path, sample.key, f"can't be read ({error.strerror})") from error
        if len(content) != sample.size:
            end = sample.offset + sample.size
            raise DamagedSample(
                path, sample.key, f"the shard is truncated: it ends before byte {end:,}"
            )
        if zlib.crc32(content) != sample.crc32:
            raise DamagedSample(path, sample.key, "its bytes do not match the index's checksum")
        return content

    def tensors(self, name: str) -> ShardIndex:
        """The index of the set of tensors `name` that belongs to these clips, one sample a clip.

        Raises UserError where there is none, or where it was made for other clips.
        """
        if name not in self._tensors:
            found = ShardIndex.load(self.folder, name)
            if found.content.recipe.get("clips") != self.fingerprint or len(found) != len(self):
                raise UserError(
                    f"{self.folder / index_file(name)}: was made for other clips than those that are in"
                    " the folder now; make it again"
                )
            self._tensors[name] = found
        return self._tensors[name]

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 that stands for the content of all shards."""
        hashes = "".join(shard.sha256 for shard in self.content.shards)
        return hashlib.sha256(hashes.encode()).hexdigest()

    @cached_property
    def _first_clips(self) -> list[int]:
        counts = (shard.num_clips for shard in self.content.shards)
        return list(itertools.accumulate(counts, initial=0))[:-1]

    def _descriptor(self, file: str) -> int:
        if file not in self._open_files:
            self._open_files[file] = os.open(self.folder / file, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open_files) > MAX_OPEN_FILES:
                _, oldest = self._open_files.popitem(last=False)
                os.close(oldest)
        self._open_files.move_to_end(file)
        return self._open_files[file]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_files": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self.__dict__.pop("_open_files", {}).values():
            os.close(descriptor)


def read_content(path: Path) -> IndexContent:
    """The validated content of an index file; UserError names the file and the first thing wrong."""
    try:
        content = IndexContent.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(
            f"{path}: not a shard index: {where}: {first['msg']}; make the shards again with"
            " `./launch.sh prepare --overwrite`"
        ) from error
    if content.version != VERSION:
        raise UserError(
            f"{path}: index version {content.version}, this program reads version {VERSION}; make the"
            " shards again with `./launch.sh prepare --overwrite`"
        )
    _check_counts(path, content)
    return content


def _check_counts(path: Path, content: IndexContent) -> None:
    total = sum(shard.num_clips for shard in content.shards)
    if total != content.num_clips:
        raise UserError(
            f"{path}: num_clips is {content.num_clips} but its shards have {total}; the index was"
            " edited or damaged: make the shards again with `./launch.sh prepare --overwrite`"
        )
    for shard in content.shards:
        if len(shard.samples) != shard.num_clips:
            raise UserError(
                f"{path}: {shard.file} has num_clips {shard.num_clips} but lists"
                f" {len(shard.samples)} samples; the index was edited or damaged"
            )
        for sample in shard.samples:
            if sample.offset + sample.size > shard.bytes:
                raise UserError(
                    f"{path}: {shard.file}: sample {sample.key} ends at byte"
                    f" {sample.offset + sample.size:,} of {shard.bytes:,}; the index was edited or"
                    " damaged"
                )
