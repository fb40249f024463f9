"""Several processes that score one set: batches are dealt out by number, and their lines put in order.

Each batch becomes a file of its own, whichever process scores it, so that a run that is killed loses no whole
batch and may go on with another number of processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data.durable_files import write_durably
from train.ranks import Ranks, joined_ranks

LONGEST_WAIT = timedelta(days=7)
"""Ranks wait for each other at the end only, and clips may take hours."""


@contextmanager
def scoring_ranks() -> Iterator[Ranks]:
    """This process's place among those that torchrun started; a lone process is the only one."""
    # What ranks tell each other is small: it travels on the CPU, wherever they compute.
    with joined_ranks("cpu", LONGEST_WAIT) as ranks:
        if ranks.world_size > 1:
            _take_own_gpu()
        yield ranks


def _take_own_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local_rank % torch.cuda.device_count())


@dataclass(frozen=True)
class BatchFile:
    """The result of one batch: lines, and the rows of `seconds.jsonl`."""

    lines: list[dict[str, Any]]
    seconds: list[dict[str, Any]]


class BatchFiles:
    """A folder with a file for each batch that is scored and not yet in its place in `clips.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, start: int) -> Path:
        """The file of the batch whose first item is `start`."""
        return self.folder / f"{start:08d}.json"

    def starts(self) -> set[int]:
        """First items of the batches that are there."""
        return {int(path.stem) for path in self.folder.glob("*.json")}

    def write(self, start: int, batch: BatchFile) -> None:
        """Keeps a batch, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"lines": batch.lines, "seconds": batch.seconds}
        write_durably(self.path(start), json.dumps(content).encode())

    def read(self, start: int) -> BatchFile:
        """A batch that is there; raises UserError where its file is damaged."""
        path = self.path(start)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return BatchFile(content["lines"], content["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it and run again") from error

    def remove(self, start: int) -> None:
        """Forgets a batch, and the folder after the last one."""
        self.path(start).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forgets all of them."""
        for start in self.starts():
            self.remove(start)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
