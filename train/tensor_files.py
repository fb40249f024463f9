"""Safetensors files written as a stream, with their sha256 taken in the same pass.

The library's own writers want every tensor in memory at once and tell nothing of the bytes; a checkpoint
of many gigabytes should need neither a second copy nor a second reading. Reading is the library's.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from configs.errors import UserError
from data.durable_files import sync

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

FileRecord = dict[str, int | str]
"""A file's size ("bytes") and "sha256"."""


@dataclass(frozen=True)
class Entry:
    """A tensor to be saved: known by shape now, fetched when its turn comes.

    fetch: returns the whole tensor. It may be a collective call, so every rank makes it, in the same order.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    fetch: Callable[[], Tensor]

    @staticmethod
    def of(name: str, tensor: Tensor) -> Entry:
        return Entry(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class TensorFileWriter:
    """Writes the tensors of `entries`, in that order, to a file; counts bytes and hashes them.

    A failure shows only in `finish`: until then the other ranks count on this one to go on fetching.
    """

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        self._failure: OSError | UserError | None = None
        self._file: BinaryIO | None = None
        try:
            self._file = path.open("wb")
            self._write(_header(entries))
        except OSError as error:
            self._failure = error

    def add(self, entry: Entry, tensor: Tensor) -> None:
        """Appends the next tensor; NaN and infinity count as a failure."""
        assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape), entry.name
        if self._failure is not None:
            return
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            self._failure = UserError(
                f"{entry.name} has NaN or infinite values, which are never saved; continue from the"
                " last checkpoint in a new run with a lower optimizer.lr"
            )
            return
        try:
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            self._write(flat.view(torch.uint8).numpy().data)
        except OSError as error:
            self._failure = error

    def finish(self) -> FileRecord:
        """Syncs and closes the file; returns what a manifest says of it. Raises what failed before."""
        try:
            if self._failure is None and self._file is not None:
                sync(self._file)
        finally:
            if self._file is not None:
                self._file.close()
        if self._failure is not None:
            raise self._failure
        return {"bytes": self._num_bytes, "sha256": self._digest.hexdigest()}

    def _write(self, content: bytes | memoryview) -> None:
        assert self._file is not None
        self._file.write(content)
        self._digest.update(content)
        self._num_bytes += len(content)


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of several safetensors files under one roof, read one at a time."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[str, Any] = {}
        for path in paths:
            file = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _header(entries: Sequence[Entry]) -> bytes:
    layout, offset = {}, 0
    for entry in entries:
        end = offset + entry.num_bytes
        layout[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(layout, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    return struct.pack("<Q", len(text)) + text
