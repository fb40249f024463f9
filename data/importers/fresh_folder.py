"""Output folders that appear whole or not at all, and never on top of something else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from data.durable_files import TEMPORARY_SUFFIX, disk_errors_explained


@contextmanager
def fresh_folder(folder: Path, bytes_needed: int) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `folder` on success and removed on any failure.

    Raises UserError where `folder` already holds something, the disk is full, or it can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not empty; choose another or remove it")
    temporary = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    with disk_errors_explained(folder, bytes_needed):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
