"""What of a set of scenes was left out, and why: counted by reason, and listed in a file beside the shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data.durable_files import write_durably

FILE = "left_out.jsonl"


class Reason(StrEnum):
    """Why a scene, or a clip of one, is left out."""

    CAMERAS = "cameras can't be used"
    NO_MEDIA = "no video or images"
    MISSING = "frames are missing"
    UNREADABLE = "files can't be read"
    UNDECODABLE = "frames can't be decoded"
    TIMES = "times that the video hasn't"
    SMALL = "frames are too small"
    SHORT = "too short"
    NO_PARALLAX = "no parallax found"
    STILL = "camera hardly moves"
    JUMP = "camera jumps"
    KILLED = "ended the process that read it"


class LeftOut(UserError):
    """A scene, or a clip of one, that can't be used; the others can."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[LeftOut], tuple[Reason, str]]:
        return LeftOut, (self.reason, str(self))


@dataclass(frozen=True)
class LeftOutEntry:
    """One line of `left_out.jsonl`. frames: which of the scene; None where all of it is left out."""

    scene: str
    frames: str | None
    reason: str
    detail: str

    @staticmethod
    def of(scene: str, error: LeftOut, frames: str | None = None) -> LeftOutEntry:
        return LeftOutEntry(scene, frames, error.reason.value, str(error))

    def as_note(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def left_out_for(reason: Reason) -> Iterator[None]:
    """Turns a UserError into a `LeftOut` of that reason, unless it is one already."""
    try:
        yield
    except LeftOut:
        raise
    except UserError as error:
        raise LeftOut(reason, str(error)) from error


def write_left_out(folder: Path, entries: Iterable[LeftOutEntry]) -> None:
    """Writes `left_out.jsonl` in one step, one JSON object a line; an empty file where nothing was left out."""
    lines = [json.dumps(entry.as_note(), ensure_ascii=False) + "\n" for entry in entries]
    write_durably(folder / FILE, "".join(lines).encode(), others_write_too=True)


def read_left_out(folder: Path) -> list[LeftOutEntry]:
    """What `write_left_out` wrote; nothing where the file is missing."""
    path = folder / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [LeftOutEntry(**json.loads(line)) for line in lines]


def count_by_reason(entries: Iterable[LeftOutEntry]) -> dict[str, str]:
    """Rows of a table: each reason, with how many scenes and how many clips of other scenes it cost."""
    scenes: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    for entry in entries:
        (scenes if entry.frames is None else clips)[entry.reason] += 1
    reasons = sorted(scenes | clips, key=lambda reason: -scenes[reason] - clips[reason])
    return {
        reason: " and ".join(
            f"{count:,} {what}"
            for count, what in ((scenes[reason], "scenes"), (clips[reason], "clips"))
            if count
        )
        for reason in reasons
    }
