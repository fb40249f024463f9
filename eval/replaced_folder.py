"""An output folder that a command makes again each time, over its own earlier output and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from data.durable_files import disk_errors_explained
from eval.pages.scene_outputs import BYTES_NEEDED


@contextmanager
def replaced_folder(folder: Path, files: Iterable[str]) -> Iterator[Path]:
    """A temporary folder to fill, which then takes the place of `folder`'s earlier content of the same kind.

    files: what an earlier output may hold, beside its report. Raises UserError where `folder` holds anything
    else, or can't be written.
    """
    known = {*(Path(name).parts[0] for name in files), "report.html"}
    if folder.exists():
        foreign = (
            sorted(p.name for p in folder.iterdir() if p.name not in known)
            if folder.is_dir()
            else [folder.name]
        )
        if foreign:
            raise UserError(
                f"{folder} holds {foreign[0]!r}, which this command did not write; move it away, or give"
                " another folder with --out"
            )
    temporary = folder.with_name(folder.name + ".tmp")
    old = folder.with_name(folder.name + ".old")
    with disk_errors_explained(folder, BYTES_NEEDED):
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
