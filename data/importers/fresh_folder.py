"""Output folders that appear whole or not at all, and never on top of something else."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from data.durable_files import disk_errors_explained, own_temporary


@contextmanager
def fresh_folder(folder: Path, bytes_needed: int) -> Iterator[Path]:
    """A temporary folder of this call's own to fill, renamed to `folder` on success and removed on any failure.

    Raises UserError where `folder` already holds something, the disk is full, or it can't be written. Where it
    came to hold something meanwhile, that stays, the temporary folder too, and the UserError names both.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not empty; choose another or remove it")
    temporary = own_temporary(folder)
    with disk_errors_explained(folder, bytes_needed):
        temporary.mkdir(parents=True)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        try:
            os.replace(temporary, folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            raise UserError(
                f"{folder} was filled by another run meanwhile; what this one made is in {temporary}: rename it"
            ) from error
