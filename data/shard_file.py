"""One shard in the making: samples go into a tar file that gets its name when it is whole and on the disk."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import BinaryIO

from data.durable_files import (
    disk_errors_explained,
    own_temporary,
    publish,
    stray_temporaries,
    sync,
)
from data.shard_index import SampleRecord, ShardRecord
from data.shard_samples import EncodedSample

TAR_END = bytes(1024)


class ShardFile:
    """A shard that is being written to a temporary file beside `path`; `finish` or `drop` ends it.

    What earlier processes left of the same shard is removed. Raises UserError where the disk is full, with the
    bytes that are needed for it and for all that is still to come.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples: list[SampleRecord] = []
        for stray in stray_temporaries(path):
            stray.unlink(missing_ok=True)
        self._temporary = own_temporary(path)
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def append(self, sample: EncodedSample, num_to_come: int = 0) -> None:
        """Adds a sample; `num_to_come` more of its size are expected, here and in later shards."""
        offset = self.samples[-1].offset + self.samples[-1].size if self.samples else 0
        self._write(sample.content, len(sample.content) * (1 + num_to_come))
        self.samples.append(sample.record.model_copy(update={"offset": offset}))

    def finish(self) -> ShardRecord:
        """The record of the shard, which is on the disk under its name."""
        self._write(TAR_END, len(TAR_END))
        assert self._file is not None
        record = ShardRecord(
            file=self.path.name,
            sha256=self._digest.hexdigest(),
            bytes=self._file.tell(),
            num_clips=len(self.samples),
            samples=tuple(self.samples),
        )
        with disk_errors_explained(self.path, record.bytes, ", then go on with --resume"):
            try:
                sync(self._file)
                self._file.close()
                publish(self._temporary, self.path)
            except BaseException:
                self.drop()
                raise
        return record

    def drop(self) -> None:
        """Leaves nothing of the shard."""
        if self._file is not None:
            # Closing flushes, which fails again on a full disk; the file goes either way.
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)
        self._file = None

    def _write(self, content: bytes, bytes_needed: int) -> None:
        with disk_errors_explained(self.path, bytes_needed, ", then go on with --resume"):
            try:
                if self._file is None:
                    self._file = self._temporary.open("wb")
                self._file.write(content)
                self._digest.update(content)
            except BaseException:
                self.drop()
                raise
