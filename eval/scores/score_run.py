"""Scores a set of things, clips or scenes, one JSON line a clip, and goes on where it stopped.

A score folder holds `config.yaml`, `identity.json` (hashes of weights and clips), `clips.jsonl` (the scores,
the same bytes whenever the same thing is scored), `seconds.jsonl`, `pictures/`, `summary.json` and
`report.html`. What is scored, and how, is a `Score`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from configs.errors import UserError
from configs.loader import Config, dump_config
from data.durable_files import disk_errors_explained, write_durably
from eval.scores.score_ranks import BatchFile, BatchFiles
from models.peak_memory import peak_memory_bytes
from train.engine import set_threads
from train.ranks import Ranks
from train.run_folder import describe_environment

FORMAT = "format"
"""The name, in an identity, of the number that lines of one meaning share."""
LINE_BYTES = 20_000
"""A generous guess of a clip's line, for the message on a full disk."""
WAYS_ON = "give another folder with out=..., or throw that score away with restart=true"


class ScoreConfig(Config):
    """What every recipe of `score` says, whatever its kind."""

    data: Path = Field(description="what is scored")
    seed: int = Field(0, ge=0, description="of whatever is random")
    threads: int = Field(1, gt=0, description="of torch and of the renderer")
    out: Path = Field(description="folder for the results")
    restart: bool = Field(False, description="throw away what `out` holds of another score")


@dataclass(frozen=True)
class Scored:
    """One item's lines, and the wall seconds of each stage."""

    lines: list[dict[str, Any]]
    seconds: dict[str, float]


Told = Callable[[str], None]
"""Gets a few words on what is being done."""


@runtime_checkable
class Score(Protocol):
    """A kind of score: items, one or more clips each, that are measured in batches.

    noun: what an item is called. lines_per_item: every item has so many lines, scored or failed.
    identity: hashes of all that the lines depend on, and under `FORMAT` what lines of one meaning share; lines of
        another identity are never mixed in.
    """

    noun: str
    lines_per_item: int
    batch_size: int
    num_items: int
    identity: dict[str, str]

    @property
    def config(self) -> ScoreConfig: ...

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        """Measures a batch of items, and writes a picture of each into `pictures`.

        A line has "clip", its number, and "source"; that of a clip which cannot be used has "error". Raises
        UserError for what would go wrong with every item.
        """
        ...

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        """A few words on an item's scores."""
        ...

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        """What `summary.json` says of all lines; raises UserError where none has a score."""
        ...

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        """Writes `report.html`."""
        ...

    def print_scores(self, summary: dict[str, Any]) -> None:
        """The main table on the terminal."""
        ...


class ScoreRun:
    """One score folder, new or continued."""

    def __init__(self, score: Score, ranks: Ranks | None = None) -> None:
        self.score = score
        self.ranks = ranks or Ranks()
        self.folder = score.config.out
        self.lines_path = self.folder / "clips.jsonl"
        self.seconds_path = self.folder / "seconds.jsonl"
        self.batches = BatchFiles(self.folder / "batches")
        self.ranks.on_first(self._open_folder)

    @property
    def num_done(self) -> int:
        """Items that are scored already."""
        return len(self.lines()) // self.score.lines_per_item

    def run(
        self,
        on_item: Callable[[list[dict[str, Any]]], None] | None = None,
        tell: Told = lambda words: None,
    ) -> None:
        """Scores the items that are still missing, in order; `on_item` gets each one's new lines.

        Batches are always the same, wherever a run stopped, since the numbers within one depend on each other
        by their rounding: what is left of a batch that is not whole is scored again.
        """
        set_threads(self.score.config.threads)
        size, total = self.score.batch_size, self.score.num_items
        done = self.ranks.from_first((self.num_done, self.batches.starts()))
        missing = [start for start in range(done[0], total, size) if start not in done[1]]
        for start in missing[self.ranks.rank :: self.ranks.world_size]:
            items = range(start, min(start + size, total))
            found = self.score.measure(items, self.folder / "pictures", tell)
            peak_mib = round(peak_memory_bytes() / 2**20)
            rows = [
                {"item": n, "seconds": one.seconds, "peak_memory_mib": peak_mib}
                for n, one in zip(items, found, strict=True)
            ]
            batch = BatchFile([line for one in found for line in one.lines], rows)
            self.batches.write(start, batch)
            if self.ranks.is_first:
                self._put_in_order()
            if on_item is not None:
                for one in found:
                    on_item(one.lines)
        self.ranks.gather(None)
        if self.ranks.is_first:
            self._put_in_order()
            self.batches.clear()

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines written so far, in order."""
        return _read_lines(self.lines_path)[: self.score.num_items * self.score.lines_per_item]

    def write_summary(self) -> dict[str, Any]:
        """Writes `summary.json` from the lines, and returns it."""
        lines = self.lines()
        rows = _read_lines(self.seconds_path)
        timings = {row["item"]: row["seconds"] for row in rows}
        peaks = [row["peak_memory_mib"] for row in rows if "peak_memory_mib" in row]
        seconds = _mean_seconds([timings[n] for n in range(self.num_done) if n in timings])
        summary = {
            **self.score.summarise(lines, seconds),
            "failed": {line["source"]: line["error"] for line in lines if "error" in line},
            f"seconds_per_{self.score.noun}": seconds,
            "peak_memory_mib": max(peaks, default=None),
            "identity": self.score.identity,
            "config": self.score.config.model_dump(mode="json"),
            "environment": describe_environment(),
        }
        write_durably(self.folder / "summary.json", json.dumps(summary, indent=1).encode())
        return summary

    def write_report(self, summary: dict[str, Any]) -> Path:
        """Writes the page to look at, and returns where it is."""
        self.score.write_report(self.folder, summary, self.lines())
        return self.folder / "report.html"

    def _put_in_order(self) -> None:
        """Moves the batches that come next in order to the end of `clips.jsonl`."""
        size = self.score.batch_size
        while (start := self.num_done) in self.batches.starts() and start % size == 0:
            batch = self.batches.read(start)
            with disk_errors_explained(self.lines_path, LINE_BYTES * len(batch.lines)):
                _append(self.seconds_path, batch.seconds)
                _append(self.lines_path, batch.lines)
            self.batches.remove(start)

    def _open_folder(self) -> None:
        """Makes the folder, or checks that what it holds is this score's; drops a torn last line."""
        path, identity = self.folder / "identity.json", self.score.identity
        restart = self.score.config.restart
        if restart:
            self._throw_away()
        if path.is_file():
            found = json.loads(path.read_text())
            names = dict.fromkeys([*identity, *found])
            changed = [name for name in names if found.get(name) != identity.get(name)]
            if changed and self._holds_no_score():
                self._throw_away()
            elif FORMAT in changed:
                raise UserError(
                    f"{self.folder} holds the score of another version of this program, whose lines have other"
                    f" measures (format {found.get(FORMAT, 'unknown')}, this one writes {identity.get(FORMAT)});"
                    f" {WAYS_ON}"
                )
            elif changed:
                raise UserError(
                    f"{self.folder} holds the score of something else (other {' and '.join(changed)}); {WAYS_ON}"
                )
        elif _is_taken(self.folder) and not restart:
            raise UserError(
                f"{self.folder} exists and holds no score; give another folder with out=..., or write"
                " into it with restart=true"
            )
        with disk_errors_explained(self.folder, LINE_BYTES):
            (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(identity, indent=1).encode())
        dump_config(self.score.config, self.folder / "config.yaml")
        for file in (self.lines_path, self.seconds_path):
            _drop_torn_line(file)
        self._drop_part_of_batch()
        self._put_in_order()

    def _throw_away(self) -> None:
        for file in (self.folder / "identity.json", self.lines_path, self.seconds_path):
            file.unlink(missing_ok=True)
        self.batches.clear()

    def _holds_no_score(self) -> bool:
        """Whether nothing would be lost: every item so far failed, as those of a wrong file do."""
        lines = _read_lines(self.lines_path)
        return not self.batches.starts() and bool(lines) and all("error" in one for one in lines)

    def _drop_part_of_batch(self) -> None:
        lines = _read_lines(self.lines_path)
        per_batch = self.score.batch_size * self.score.lines_per_item
        if len(lines) < self.score.num_items * self.score.lines_per_item:
            whole = len(lines) // per_batch * per_batch
            if whole < len(lines):
                kept = "".join(json.dumps(line) + "\n" for line in lines[:whole])
                write_durably(self.lines_path, kept.encode())


def picture_file(pictures: Path, item: int, suffix: str = ".png") -> Path:
    """Where an item's picture or video is."""
    return pictures / f"{item:04d}{suffix}"


def settings_sha256(*settings: Any) -> str:
    """One hash over configurations and plain values."""
    plain = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in settings]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _mean_seconds(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: round(sum(values) / len(values), 3)
        for name in names
        if (values := [row[name] for row in rows if name in row])
    }


def _append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); throw the score away with restart=true"
        ) from error


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line without its end, which a kill in the middle of a write leaves."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        write_durably(path, content[: content.rfind(b"\n") + 1])
