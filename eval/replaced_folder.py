"""An output folder that a command makes again each time, over its own earlier output and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from data.durable_files import disk_errors_explained, own_temporary
from eval.pages.scene_outputs import BYTES_NEEDED


@contextmanager
def replaced_folder(folder: Path, files: Iterable[str]) -> Iterator[Path]:
    """A temporary folder of this call's own, which then takes the place of `folder`'s earlier content of its kind.

    files: what an earlier output may hold, beside its report. Raises UserError where `folder` holds anything
    else, at the start or at the end, or can't be written.
    """
    known = {*(Path(name).parts[0] for name in files), "report.html"}
    _refuse_foreign(folder, known)
    temporary, old = own_temporary(folder), own_temporary(folder)
    with disk_errors_explained(folder, BYTES_NEEDED):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _refuse_foreign(folder, known)
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(folder: Path, known: Collection[str]) -> None:
    if not folder.exists():
        return
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    if foreign := sorted(name for name in found if not folder.is_dir() or name not in known):
        raise UserError(
            f"{folder} holds {foreign[0]!r}, which this command did not write; move it away, or give"
            " another folder with --out"
        )
