"""Files that are either whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from configs.errors import UserError

TEMPORARY_SUFFIX = ".tmp"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def write_durably(path: Path, content: bytes, *, others_write_too: bool = False) -> None:
    """Puts `content` at `path` in one step; a crash at any moment leaves the old file or the new one.

    others_write_too: other processes may write the same file at the same time; the last one's stays.
    Raises UserError where the disk is full or the folder can't be written; no stray file is left.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    if others_write_too:
        temporary = own_temporary(path)
    with disk_errors_explained(path, len(content)):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                sync(file)
            publish(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def own_temporary(path: Path) -> Path:
    """A temporary name beside `path` that no other process uses; `stray_temporaries` finds what was left."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def stray_temporaries(path: Path) -> list[Path]:
    """Temporary files that `own_temporary(path)` named, of this process, others, and those that were killed."""
    return list(path.parent.glob(f"{path.name}.????????{TEMPORARY_SUFFIX}"))


def sync(file: BinaryIO) -> None:
    """Returns once the file's content is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Renames a synced file to its final name and syncs the folder that holds the name."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Returns once the names in the folder are on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def disk_errors_explained(path: Path, bytes_needed: int, cure: str = "") -> Iterator[None]:
    """Turns a full disk or an unwritable folder into a UserError with the path and the bytes needed."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UserError(
                f"{path}: the disk is full: {bytes_needed:,} bytes needed, {_free_bytes(path):,}"
                f" free; free some space{cure or ' and run again'}"
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise UserError(
                f"{path}: can't be written ({error.strerror}); choose a folder that you may write to"
            ) from error
        if error.errno in {errno.ENOTDIR, errno.EEXIST, errno.ENOENT}:
            raise UserError(
                f"{path}: can't be written ({error.strerror}); one of the folders above it is missing"
                " or is a file"
            ) from error
        raise


def _free_bytes(path: Path) -> int:
    for folder in path.absolute().parents:
        if folder.exists():
            return shutil.disk_usage(folder).free
    return 0
