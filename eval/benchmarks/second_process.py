"""What this machine gives a second process at all: in arithmetic, and in memory that no cache holds.

Weak scaling lies between the two: a training step multiplies matrices, and reads and writes in between.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import torch

MATRIX_SIDE = 768
COPIED_FLOATS = 32_000_000
"""128 MB, more than caches hold."""
SECONDS, ROUNDS = 2.0, 3
START_SECONDS = 120
"""A process that has not started by then has died."""


def _multiply() -> Callable[[], object]:
    matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE).bfloat16()
    return lambda: matrix @ matrix


def _copy() -> Callable[[], object]:
    source, target = torch.zeros(COPIED_FLOATS), torch.zeros(COPIED_FLOATS)
    return lambda: target.copy_(source)


WORK = {"multiplying matrices": _multiply, "copying memory": _copy}


def second_process(seconds: float = SECONDS, rounds: int = ROUNDS) -> dict[str, float]:
    """How much two processes of one thread do of each kind of `WORK`, as multiples of what one does; medians."""
    return {
        name: round(
            statistics.median(
                _rate(name, 2, seconds) / _rate(name, 1, seconds) for _ in range(rounds)
            ),
            2,
        )
        for name in WORK
    }


def _rate(name: str, processes: int, seconds: float) -> float:
    """Of all processes together, times a second."""
    context = get_context("spawn")
    barrier, rates = context.Barrier(processes), context.Queue()
    arguments = (name, seconds, barrier, rates)
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    total = sum(rates.get(timeout=START_SECONDS + 10 * seconds) for _ in workers)
    for worker in workers:
        worker.join()
    return total


def _work(name: str, seconds: float, barrier: Barrier, rates: Queue[float]) -> None:
    torch.set_num_threads(1)
    work = WORK[name]()
    work()
    barrier.wait(timeout=START_SECONDS)
    done, started = 0, time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        work()
        done += 1
    rates.put(done / passed)
