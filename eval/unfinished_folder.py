"""The output folder of a command that takes long: unfinished until it is done, and continued by the same command."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from configs.errors import UserError
from data.durable_files import disk_errors_explained, write_durably
from eval.pages.scene_outputs import BYTES_NEEDED

MAY_CHANGE = ("out", "keep", "device", "dtype", "one_by_one")
"""Options that a continued run may change: where it computes, and what it writes."""
UNFINISHED = "unfinished"
REQUEST, STATE, PREVIEW = "request.json", "state.safetensors", "preview.png"


class UnfinishedFolder:
    """`PREVIEW` and, in `UNFINISHED`, what a continued run needs; both give way to the results in the end."""

    def __init__(
        self, path: Path, request: Mapping[str, Any], bytes_needed: int = BYTES_NEEDED
    ) -> None:
        """request: what is to be made, and how, by name. bytes_needed: of the results, for the message on a full disk.

        Raises UserError where the folder holds anything else, or can't be written.
        """
        self.path, self.request, self.bytes_needed = path, dict(request), bytes_needed
        self.unfinished = path / UNFINISHED
        self._is_open = False
        self._check_free()
        there = next(
            folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists()
        )
        if not os.access(there, os.W_OK):
            raise UserError(f"{there} can't be written; give another folder with --out")

    def open(self) -> None:
        """Makes the folder where there is none yet. Raises UserError where another run has filled it meanwhile."""
        if self._is_open:
            return
        self._check_free()
        with disk_errors_explained(self.path, self.bytes_needed):
            self.unfinished.mkdir(parents=True, exist_ok=True)
        write_durably(self.unfinished / REQUEST, json.dumps(self.request, indent=1).encode())
        self._is_open = True

    def load_state(self) -> dict[str, Tensor] | None:
        """The state of the run that was stopped; None where there is none. Raises UserError where it is damaged."""
        file = self.unfinished / STATE
        if not file.is_file():
            return None
        content = file.read_bytes()
        digest, body = content[:64], content[64:]
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise UserError(f"{file} is damaged; remove {self.path} to start again")
        try:
            return load(body)
        except SafetensorError as error:
            raise UserError(f"{file} can't be read ({error}); remove {self.path}") from error

    def save(self, state: Mapping[str, Tensor], png: bytes) -> None:
        """Puts a state and a preview in the place of the last ones."""
        body = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
        digest = hashlib.sha256(body).hexdigest().encode()
        write_durably(self.unfinished / STATE, digest + body)
        write_durably(self.path / PREVIEW, png)

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """A folder to fill with results, which then stand in this one; nothing is left of the unfinished run."""
        results = self.unfinished / "results"
        with disk_errors_explained(self.path, self.bytes_needed):
            shutil.rmtree(results, ignore_errors=True)
            results.mkdir()
            yield results
            for file in sorted(results.iterdir(), key=lambda file: file.name == "report.html"):
                file.rename(self.path / file.name)
            (self.path / PREVIEW).unlink(missing_ok=True)
            shutil.rmtree(self.unfinished)

    def _check_free(self) -> None:
        """Raises UserError where the folder holds anything but an unfinished run of this request."""
        if not self.path.exists():
            return
        if (self.unfinished / REQUEST).is_file():
            if (self.unfinished / STATE).is_file():  # else there is nothing to continue
                self._check_request()
        elif not self.path.is_dir() or any(self.path.iterdir()):
            raise UserError(
                f"{self.path} exists; give another folder with --out, or remove that one first"
            )

    def _check_request(self) -> None:
        try:
            before = json.loads((self.unfinished / REQUEST).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{self.unfinished / REQUEST} is damaged ({error}); remove {self.path} to start again"
            ) from error
        for name in sorted({*before, *self.request}):
            if before.get(name) != self.request.get(name):
                raise UserError(
                    f"{self.path} holds an unfinished run with other settings: {name} is not the same; finish"
                    " it with the command that it was started with, or give another folder with --out"
                )


def request_of(
    args: argparse.Namespace, files: Mapping[str, Path | None], also_changes: Collection[str] = ()
) -> dict[str, str]:
    """What has to be the same for a run to be continued: a parsed command line, and what is in the files that it names.

    files: by what they are called; None for those that there are not. One that is missing is left to whoever reads it.
    also_changes: options beside `MAY_CHANGE`.
    """
    changes = {*MAY_CHANGE, *also_changes}
    request = {name: str(value) for name, value in vars(args).items() if name not in changes}
    for name, path in files.items():
        if path is not None and path.exists():
            try:
                request[f"content of {name}"] = content_digest(path)
            except OSError as error:
                raise UserError(f"{path} can't be read ({error.strerror})") from error
    return request


def content_digest(path: Path) -> str:
    """sha256 over names and contents of a file, or of all files in a folder."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
