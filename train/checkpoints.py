"""Checkpoints that are whole or not there, and that tell when a byte has changed.

A checkpoint is the folder `step_N/` with tensor files (`model-0.safetensors`, one of each kind a rank),
`state.json`, and `manifest.json`, which holds the size and sha256 of each file and of itself. It is
written as `step_N.tmp/`: every rank writes and syncs its files, the first adds state and manifest, syncs
the folder, renames it and syncs its parent. A kill at any moment leaves the old checkpoints, the new one,
or both, and maybe a `.tmp` folder that the next start removes. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from configs.errors import UserError
from data.durable_files import TEMPORARY_SUFFIX, disk_errors_explained, publish, sync, sync_folder
from train.ranks import Ranks
from train.tensor_files import Entry, FileRecord, TensorFiles, TensorFileWriter

T = TypeVar("T")
FORMAT_VERSION = 1
MANIFEST, STATE = "manifest.json", "state.json"
STEP_NAME = re.compile(r"step_\d{8,}")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the loop's state, and tensors by kind ("model", "optimizer", "ema")."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, kind: str) -> Mapping[str, Tensor]:
        return TensorFiles(sorted(self.folder.glob(f"{kind}-*.safetensors")))


class CheckpointFolder:
    """The checkpoints of one run. Every method is called by all ranks together.

    say: takes one-line messages for the user, on the first rank.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, keep: int, say: Callable[[str], None] = print
    ) -> None:
        self.folder, self.ranks, self.keep, self.say = folder, ranks, keep, say

    def save(
        self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Sequence[Entry]]
    ) -> Path:
        """Publishes `step_N/`, then removes all but the newest `keep`; an existing one is left alone.

        Raises UserError on every rank where the disk is full or a value is not finite; the unfinished
        folder is removed then, and older checkpoints are as they were.
        """
        final = self.folder / step_name(step)
        if self.ranks.from_first(final.exists()):
            return final
        temporary = final.with_name(final.name + TEMPORARY_SUFFIX)
        needed = sum(entry.num_bytes for entries in tensors.values() for entry in entries)

        def together(action: Callable[[], T], first_only: bool = False) -> list[T | None]:
            return self._together(
                action if self.ranks.is_first or not first_only else None, temporary, needed
            )

        try:
            together(lambda: _start(temporary, needed), first_only=True)
            parts = together(lambda: self._write_tensors(temporary, tensors))
            files = {name: record for part in parts for name, record in (part or {}).items()}
            together(lambda: _finish(temporary, final, step, state, files), first_only=True)
        except BaseException:
            if self.ranks.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if self.ranks.is_first:
            for old in self._published()[: -self.keep]:
                _remove(old)
        return final

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None where there is none at all.

        Newer ones that don't verify are renamed `damaged_step_N` and named in a message. Leftovers of
        killed saves are removed. Raises UserError where checkpoints exist but none verifies.
        """
        chosen = self.ranks.on_first(self._choose)
        if chosen is None:
            return None
        state = json.loads((chosen / STATE).read_text())
        step = json.loads((chosen / MANIFEST).read_text())["step"]
        return Checkpoint(chosen, step, state)

    def _choose(self) -> Path | None:
        for leftover in self.folder.glob("*" + TEMPORARY_SUFFIX):
            shutil.rmtree(leftover)
        damaged: list[tuple[Path, str]] = []
        for folder in reversed(self._published()):
            problem = find_damage(folder)
            if problem is None:
                for bad, what in damaged:
                    moved = _set_aside(bad)
                    self.say(
                        f"checkpoint {bad.name} is damaged ({what}); kept as {moved.name}, falling"
                        f" back to {folder.name}"
                    )
                return folder
            damaged.append((folder, problem))
        if damaged:
            found = "; ".join(f"{folder.name}: {what}" for folder, what in damaged)
            raise UserError(
                f"{self.folder}: no checkpoint verifies ({found}); restore one from a copy, or start"
                " a new run with another name=..."
            )
        return None

    def _write_tensors(
        self, folder: Path, tensors: Mapping[str, Sequence[Entry]]
    ) -> dict[str, FileRecord]:
        """Writes this rank's share: of each kind every `world_size`-th tensor, to a file of its own."""
        rank, world_size = self.ranks.rank, self.ranks.world_size
        writers: dict[str, TensorFileWriter] = {}
        for kind, entries in tensors.items():
            path = folder / f"{kind}-{rank}.safetensors"
            writers[path.name] = TensorFileWriter(path, entries[rank::world_size])
            for index, entry in enumerate(entries):
                tensor = entry.fetch()
                if index % world_size == rank:
                    writers[path.name].add(entry, tensor)
        return {name: writer.finish() for name, writer in writers.items()}

    def _together(
        self, action: Callable[[], T] | None, temporary: Path, needed: int
    ) -> list[T | None]:
        """Every rank's result; or, where one can't write, the same UserError on every rank."""
        result: T | None = None
        problem: str | None = None
        try:
            with disk_errors_explained(temporary, needed, self._cure()):
                result = action() if action is not None else None
        except UserError as error:
            problem = str(error)
        outcomes = self.ranks.gather((result, problem))
        problems = [problem for _, problem in outcomes if problem]
        if problems:
            raise UserError(problems[0])
        return [result for result, _ in outcomes]

    def _cure(self) -> str:
        published = self._published()
        kept = f"; {published[-1].name} is whole" if published else ""
        return f" and continue with resume=auto{kept}"

    def _published(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step_*") if STEP_NAME.fullmatch(path.name))


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None where every byte is as it was written."""
    try:
        text = (folder / MANIFEST).read_text()
        manifest = json.loads(text)
        if manifest["version"] != FORMAT_VERSION:
            return f"{MANIFEST} has version {manifest['version']}, expected {FORMAT_VERSION}"
        if text != _manifest_text(manifest["step"], manifest["files"]):
            return f"{MANIFEST} was changed"
        if folder.name != step_name(manifest["step"]):
            return f"{MANIFEST} belongs to {step_name(manifest['step'])}"
        present = {path.name for path in folder.iterdir()} - {MANIFEST}
        if present != set(manifest["files"]):
            names = ", ".join(sorted(present ^ set(manifest["files"])))
            return f"missing or unknown files: {names}"
        for name, record in manifest["files"].items():
            if file_record(folder / name) != record:
                return f"{name} was changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} can't be read ({type(error).__name__})"
    return None


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def file_record(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _start(temporary: Path, needed: int) -> None:
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    if shutil.disk_usage(temporary).free < needed:
        raise OSError(errno.ENOSPC, "less free space than the checkpoint needs", str(temporary))


def _finish(
    temporary: Path, final: Path, step: int, state: Mapping[str, Any], files: dict[str, FileRecord]
) -> None:
    _write_synced(temporary / STATE, json.dumps(state, indent=1))
    files = files | {STATE: file_record(temporary / STATE)}
    _write_synced(temporary / MANIFEST, _manifest_text(step, files))
    sync_folder(temporary)
    publish(temporary, final)


def _manifest_text(step: int, files: Mapping[str, FileRecord]) -> str:
    """The manifest's one possible spelling, so that even a changed space is found."""
    body = {"version": FORMAT_VERSION, "step": step, "files": files}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body | {"sha256": digest}, sort_keys=True, indent=1)


def _write_synced(path: Path, text: str) -> None:
    with path.open("wb") as file:
        file.write(text.encode())
        sync(file)


def _remove(folder: Path) -> None:
    """Unpublishes first, so that no half-removed folder bears a checkpoint's name."""
    doomed = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _set_aside(folder: Path) -> Path:
    number, target = 1, folder.with_name(f"damaged_{folder.name}")
    while target.exists():
        number += 1
        target = folder.with_name(f"damaged_{folder.name}_{number}")
    return folder.rename(target)
