"""Ends a run in which nothing moves any more, and says which rank holds the others up.

A rank that hangs (a dead disk, a lost GPU, a deadlock) makes all others wait in their next collective call,
which tells nothing of where it is. So each rank notes where it is whenever it enters a part of a step, and a
thread of its own sends that to the ranks' meeting place. The thread of a rank that has stood still for too long
compares: who has come the least far holds the others up.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any

from configs.errors import EXIT_BUG
from train.ranks import Ranks

SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_TO_ANSWER = 30.0
"""Within which the meeting place has to answer; it may be the process that hangs."""
TOLD = "hang/told"


@dataclass(frozen=True)
class Place:
    """Where a rank is: in which part of which step, and how many it entered before.

    long: whether that part may take far longer than a step's (start, validation, export).
    """

    count: int
    step: int
    part: str
    long: bool
    process: str

    def __str__(self) -> str:
        return f"step {self.step} ({self.part})"


UNHEARD = Place(-1, 0, "start", False, "not heard of yet")


class HangWatch:
    """Watches while it is entered.

    minutes: the longest stand-still; None watches nothing.
    long_minutes: the longest one while any rank is in a part that may take long; at least `minutes`.
    end: called with the exit code where the run is over.
    """

    def __init__(
        self,
        ranks: Ranks,
        minutes: float | None,
        long_minutes: float = 0.0,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.ranks, self.end = ranks, end
        self.limit = None if minutes is None else 60 * minutes
        self.long_limit = 60 * max(minutes or 0.0, long_minutes)
        self._process = f"process {os.getpid()} on {socket.gethostname()}"
        self._place = Place(0, 0, "start", True, self._process)
        self._since = time.monotonic()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def at(self, step: int, part: str, *, long: bool = False) -> None:
        """Notes that this rank enters a part of a step. Every rank calls it in the same order."""
        self._since = time.monotonic()
        self._place = Place(self._place.count + 1, step, part, long, self._process)

    @contextmanager
    def long_part(self, step: int, part: str) -> Iterator[None]:
        """For what may take far longer than a part of a step."""
        self.at(step, part, long=True)
        yield
        self.at(step, f"after {part}")

    def __enter__(self) -> HangWatch:
        if self.limit is not None:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="hang watch")
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(SECONDS_TO_ANSWER)

    def _watch(self) -> None:
        assert self.limit is not None
        store = self.ranks.store
        mine = None if store is None else store.clone()
        if mine is not None:
            mine.set_timeout(timedelta(seconds=SECONDS_TO_ANSWER))
        before: list[Place] | None = []
        while not self._stopped.wait(self._seconds_between_looks):
            place, seconds = self._place, time.monotonic() - self._since
            places = _within(SECONDS_TO_ANSWER, partial(self._exchange, mine, place))
            in_long_part = any(one.long for one in [place, *(places or [])])
            if seconds <= (self.long_limit if in_long_part else self.limit):
                continue
            if places != before:  # what another rank has sent may be a look old
                before = places
                continue
            if self._stopped.is_set():
                return
            self._tell(mine, seconds, places)

    def _exchange(self, store: Any, place: Place) -> list[Place]:
        """Sends this rank's place; returns every rank's, as far as it was sent."""
        if store is None:
            return [place]
        store.set(_key(self.ranks.rank), json.dumps(asdict(place)))
        keys = [_key(rank) for rank in range(self.ranks.world_size)]
        there = keys if store.check(keys) else [key for key in keys if store.check([key])]
        found = dict(zip(there, store.multi_get(there), strict=True))
        return [Place(**json.loads(found[key])) if key in found else UNHEARD for key in keys]

    def _tell(self, store: Any, seconds: float, places: Sequence[Place] | None) -> None:
        """Prints who hangs, once in the whole run, and ends this process."""
        if places is None:
            text = (
                f"rank {self.ranks.rank} waits at {self._place}, and the process where the ranks meet (rank"
                " 0, or the first node's launcher) does not answer"
            )
            behind = False
        else:
            text = describe(places)
            behind = places[self.ranks.rank].count == min(place.count for place in places)
        if store is None or places is None or self._is_first_to_tell(store):
            print(
                f"error: nothing has moved for {seconds:.0f} s: {text}. The run ends; continue from its last"
                " checkpoint with resume=auto (loop.hang_minutes is the longest stand-still,"
                " loop.long_hang_minutes that in validation and export)",
                file=sys.stderr,
                flush=True,
            )
        if behind:
            print(f"rank {self.ranks.rank} stands here:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        if self.ranks.is_first:
            # The others may still have to ask at the meeting place, which may end with this process.
            time.sleep(2 * self._seconds_between_looks)
        self.end(EXIT_BUG)

    @property
    def _seconds_between_looks(self) -> float:
        assert self.limit is not None
        return min(SECONDS_BETWEEN_LOOKS, self.limit / 4)

    def _is_first_to_tell(self, store: Any) -> bool:
        claim = str(self.ranks.rank)
        won = _within(SECONDS_TO_ANSWER, lambda: store.compare_set(TOLD, "", claim))
        return won is None or won.decode() == claim


def describe(places: Sequence[Place]) -> str:
    """Which ranks have come the least far, and where the others wait for them."""
    least = min(place.count for place in places)
    slow = [rank for rank, place in enumerate(places) if place.count == least]
    place = places[slow[0]]
    if len(slow) == len(places):
        if len(places) == 1:
            return f"rank 0 ({place.process}) hangs at {place}"
        return f"all {len(places)} ranks hang at {place}"
    who = ", ".join(f"rank {rank} ({places[rank].process})" for rank in slow[:8])
    more = f" and {len(slow) - 8} more" if len(slow) > 8 else ""
    waiting = places[next(rank for rank in range(len(places)) if rank not in slow)]
    verb = "hangs" if len(slow) == 1 else "hang"
    return f"{who}{more} {verb} at {place}, while the others wait at {waiting}"


def _key(rank: int) -> str:
    return f"hang/{rank}"


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """What the action returns; None where it fails or takes longer."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(action())
        except Exception:  # whatever a lost connection raises
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
