"""Reasons to end a run before its last step: a signal or the time budget."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

EXIT_REQUEUE = 75
"""The exit code that means "not finished: start me again" (EX_TEMPFAIL)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(BaseException):
    """A signal came where the work at hand may be broken off. Nothing but its asker may catch it."""


class StopRequest:
    """Catches the signals that ask a run to end, while it is entered; a second one acts at once.

    max_minutes: the time budget, from the making of this object.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.caught: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._interrupts = False

    @contextmanager
    def interrupting(self, wanted: bool = True) -> Iterator[None]:
        """Where `wanted`, a signal that comes within, or came before, raises `Interrupted` here."""
        try:
            self._interrupts = wanted
            if wanted and self.signalled:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    @property
    def signalled(self) -> bool:
        return self.caught is not None

    @property
    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        self._restore()
        if self._interrupts:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
