from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UserError
from train.tensor_files import DTYPE_NAMES, Entry, TensorFiles, TensorFileWriter


def write(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, int | str]:
    entries = [Entry.of(name, value) for name, value in tensors.items()]
    writer = TensorFileWriter(path, entries)
    for entry in entries:
        writer.add(entry, entry.fetch())
    return writer.finish()


def test_the_library_reads_every_type_and_shape_back(tmp_path: Path) -> None:
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).T.to(dtype) for dtype in DTYPE_NAMES
    }  # not contiguous
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "π": torch.ones(1)}
    record = write(tmp_path / "a", tensors)
    loaded = load_file(tmp_path / "a")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value)
    content = (tmp_path / "a").read_bytes()
    assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_several_files_read_as_one(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "1")
    save_file({"b": torch.zeros(3), "c": torch.ones(1)}, tmp_path / "2")
    write(tmp_path / "3", {})
    files = TensorFiles([tmp_path / "1", tmp_path / "2", tmp_path / "3"])
    assert set(files) == {"a", "b", "c"} and len(files) == 3
    assert torch.equal(files["b"], torch.zeros(3))
    with pytest.raises(KeyError):
        files["d"]


def test_a_failure_waits_for_the_end(tmp_path: Path) -> None:
    entries = [Entry.of("a", torch.tensor([torch.inf])), Entry.of("b", torch.ones(1))]
    writer = TensorFileWriter(tmp_path / "a", entries)
    for entry in entries:
        writer.add(entry, entry.fetch())
    with pytest.raises(UserError, match=r"^a has NaN or infinite values"):
        writer.finish()
