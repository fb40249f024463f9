"""Where a training step is, and how long its parts take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Seconds of the parts of a step; on a GPU each part ends when its work is finished.

    entered: told the name of each part as it begins.
    """

    def __init__(self, device: torch.device, entered: Callable[[str], None]) -> None:
        self.device, self.entered = device, entered
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time that passes within to `name`."""
        self.entered(name)
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def all_seconds(self) -> dict[str, float]:
        """Seconds by part, and their sum as "step"."""
        return self.seconds | {"step": sum(self.seconds.values())}
