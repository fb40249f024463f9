"""Shard folders written part by part: in any order, by one process or many, each part whole or not there.

A part is a shard. While a set is unfinished its folder holds

    unfinished.json              how the shards are made; nobody goes on with them otherwise
    shard-000017.tar             the shard of part 17, on the disk before ...
    shard-000017.json            ... its record, which alone says that the part is done

and whoever finds that no part is missing writes `index.json` from the records, then removes them. Processes need no
other word of each other than these files, so a killed one costs the part that it was at, and any number of processes
can go on with what another number began.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from configs.errors import UserError
from data.durable_files import (
    TEMPORARY_SUFFIX,
    disk_errors_explained,
    stray_temporaries,
    write_durably,
)
from data.part_records import PartRecord, Undertaking, read_record, read_undertaking
from data.shard_file import ShardFile
from data.shard_index import (
    CLIPS,
    VERSION,
    IndexContent,
    SampleFormat,
    ShardRecord,
    index_file,
    read_content,
    unfinished_file,
)

Existing = Literal["refuse", "overwrite", "resume"]


class ShardParts:
    """The parts of one set in a shard folder: what is done, writing a part, and the index of all of them.

    folder: made where it is missing, but not before there is a part to write.
    recipe, sample_format: as they will stand in the index; must match those of what is there.
    clips_per_shard: must match too; None where it varies.
    name: `CLIPS`, or the name of a set of tensors.
    existing: what to do with shards that are there: refuse them, replace them, or go on with them.
    alone: no other process works on the same set. Otherwise what is there is always gone on with, since
        another process may have begun it.

    Raises UserError where the folder holds shards and `existing` is "refuse", or where they were made otherwise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        recipe: dict[str, Any],
        sample_format: SampleFormat | None,
        clips_per_shard: int | None = None,
        name: str = CLIPS,
        existing: Existing = "refuse",
        alone: bool = True,
    ) -> None:
        if not alone and existing == "overwrite":
            raise UserError(
                f"{folder}: --overwrite is for one process alone, since of several none knows what another has"
                " just written; remove the folder first, then start them without it"
            )
        self.folder = folder
        self.recipe = recipe
        self._name = name
        self._format = sample_format
        self._clips_per_shard = clips_per_shard
        self._replaces = existing == "overwrite"
        self._goes_on = existing == "resume" or not alone
        self._kept: IndexContent | None = None
        self._begun = self._made_folder = False
        self._alone = alone
        self._look()

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds the set's index."""
        return self._index_path.is_file()

    @property
    def has_begun(self) -> bool:
        """Whether this process has taken the folder to write to it."""
        return self._begun

    def record(self, part: int) -> PartRecord | None:
        """The record of a part that is done; None where it is not, or where its shard is not as recorded."""
        if self._replaces and not self._begun:
            return None
        record = read_record(self._record_path(part)) or self._kept_record(part)
        if record is None or record.shard is None:
            return record
        path = self.folder / record.shard.file
        whole = path.is_file() and path.stat().st_size == record.shard.bytes
        return record if whole else None

    def shard_path(self, part: int) -> Path:
        return self.folder / f"{self._name}-{part:06d}.tar"

    def begin(self) -> None:
        """Takes the folder, unless that is done. At each moment it holds a finished set or says it is unfinished."""
        if self._begun:
            return
        self._begun = True
        self._made_folder = not self.folder.exists()
        with disk_errors_explained(self.folder, 0):
            self.folder.mkdir(parents=True, exist_ok=True)
        shards = self._shard_files()
        if self._replaces:
            _remove(self.folder.glob(f"{self._name}-??????.json"))
        if self._replaces or self._index_path.exists() or not self._unfinished_path.exists():
            undertaking = self._undertaking(self._kept)
            write_durably(self._unfinished_path, undertaking.to_json(), others_write_too=True)
            _remove([self._index_path])
        if self._replaces:
            _remove(shards)

    def publish(
        self,
        part: int,
        shard: ShardFile | None,
        size: tuple[int, int],
        notes: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Finishes a part: its shard first, its record next. `size`: height and width of its clips."""
        self.begin()
        try:
            self._check_still_ours()
        except BaseException:
            if shard is not None:
                shard.drop()
            raise
        record = PartRecord(
            shard=None if shard is None else shard.finish(),
            height=size[0],
            width=size[1],
            notes=tuple(notes),
        )
        write_durably(self._record_path(part), record.to_json(), others_write_too=True)

    def recorded(self) -> dict[int, PartRecord]:
        """The parts that are done and have a shard."""
        parts = [int(path.stem.rpartition("-")[2]) for path in self._shard_files()]
        found = {part: self.record(part) for part in parts}
        return {part: record for part, record in found.items() if record is not None}

    def finish(self, records: list[PartRecord]) -> None:
        """Writes the index of these parts, in their order, and removes what only unfinished sets need.

        Other processes may do the same at the same time. Raises UserError where clips differ in size or where
        there is none.
        """
        full = [record for record in records if record.shard is not None]
        if not full:
            raise UserError(f"{self.folder}: there are no clips to write")
        sizes = {(record.height, record.width) for record in full}
        if len(sizes) > 1:
            raise UserError(
                f"{self.folder}: its clips are {' and '.join(f'{h}x{w}' for h, w in sorted(sizes))}; prepare all"
                " clips of a folder at one size"
            )
        (height, width) = sizes.pop()
        shards = tuple(record.shard for record in full if record.shard is not None)
        content = IndexContent(
            version=VERSION,
            num_clips=sum(shard.num_clips for shard in shards),
            height=height,
            width=width,
            format=self._format,
            recipe=self.recipe,
            shards=shards,
        )
        try:
            write_durably(self._index_path, content.to_json(), others_write_too=True)
        except UserError:
            # Another process may have been faster, and have tidied up under our hands.
            if self._alone or not self._index_path.exists():
                raise
        listed = {shard.file for shard in shards}
        _remove(path for path in self._shard_files() if path.name not in listed)
        self.forget()

    def forget(self) -> None:
        """Removes the records: of a set that has its index, or of one that came to nothing."""
        _remove(self.folder.glob(f"{self._name}-??????.json"))
        _remove(self.folder.glob(f"{self._name}-??????.*{TEMPORARY_SUFFIX}"))
        for path in (self._index_path, self._unfinished_path):
            _remove(stray_temporaries(path))
        _remove([self._unfinished_path])

    def abandon(self) -> None:
        """Leaves nothing where no part was finished and nobody else may be at work."""
        if not (self._begun and self._alone and self.folder.is_dir()) or self._shard_files():
            return
        _remove([self._unfinished_path])
        if self._made_folder and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _look(self) -> None:
        """Decides what stays and what must go, but changes nothing."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; expected a folder to write shards to")
        present = [path for path in (self._index_path, self._unfinished_path) if path.exists()]
        shards = self._shard_files()
        if not present and shards:
            raise UserError(
                f"{self.folder}: has {shards[0].name} but no {self._index_path.name}; choose another folder or"
                " remove the shards"
            )
        if not present or self._replaces:
            return
        finished = present[0] == self._index_path
        if not self._goes_on:
            raise UserError(
                f"{self.folder}: already holds {'finished' if finished else 'unfinished'} shards; add --resume to"
                " go on with them, --overwrite to replace them, or choose another folder"
            )
        if finished:
            self._kept = read_content(present[0])
            self._undertaking(None).check_same(Undertaking.of_index(self._kept), present[0])
        else:
            there = read_undertaking(present[0])
            self._undertaking(None).check_same(there, present[0])
            self._kept = there.kept

    def _check_still_ours(self) -> None:
        """Raises UserError where another command has taken the folder since we looked."""
        path = self._unfinished_path
        if path.exists():
            self._undertaking(None).check_same(read_undertaking(path), path)
        elif not self._index_path.exists():
            raise UserError(
                f"{self.folder}: {self._unfinished_path.name} is gone; another command has replaced or removed"
                " these shards"
            )

    def _undertaking(self, kept: IndexContent | None) -> Undertaking:
        return Undertaking(
            version=VERSION,
            recipe=self.recipe,
            format=self._format,
            clips_per_shard=self._clips_per_shard,
            kept=kept,
        )

    def _kept_record(self, part: int) -> PartRecord | None:
        if self._kept is None:
            return None
        shard = self._kept_shards.get(self.shard_path(part).name)
        if shard is None:
            return None
        return PartRecord(shard=shard, height=self._kept.height, width=self._kept.width)

    @cached_property
    def _kept_shards(self) -> dict[str, ShardRecord]:
        return {} if self._kept is None else {shard.file: shard for shard in self._kept.shards}

    def _shard_files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self._name}-??????.tar"))

    def _record_path(self, part: int) -> Path:
        return self.shard_path(part).with_suffix(".json")

    @property
    def _index_path(self) -> Path:
        return self.folder / index_file(self._name)

    @property
    def _unfinished_path(self) -> Path:
        return self.folder / unfinished_file(self._name)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
