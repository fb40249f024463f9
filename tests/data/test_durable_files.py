"""Durable writing: the old file or the new one, never half of it."""

from __future__ import annotations

import errno
import os

import pytest

from configs.errors import UserError
from data import durable_files
from data.durable_files import disk_errors_explained, write_durably


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable_files, "sync", full)
    with pytest.raises(UserError, match=r"file: the disk is full: 3 bytes needed, [\d,]+ free"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.EROFS, "choose a folder that you may write to"),
        (errno.EDQUOT, "the disk is full: 70,000 bytes needed"),
        (errno.ENOTDIR, "is missing or is a file"),
    ],
)
def test_errors_of_the_disk_become_one_sentence(tmp_path, number, words):
    with pytest.raises(UserError, match=words), disk_errors_explained(tmp_path / "x" / "y", 70_000):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(OSError, match="Input/output"), disk_errors_explained(tmp_path, 1):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
