"""What this machine reaches at its best, measured: the limit that benchmarks are held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

MATMUL_SIZE = 1024


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of `run` over `repeats` calls, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def matmul_peak(dtype: torch.dtype, repeats: int = 7) -> float:
    """FLOP/s of a product of two square matrices of side `MATMUL_SIZE`, at the threads torch has now."""
    left = torch.randn(MATMUL_SIZE, MATMUL_SIZE).to(dtype)
    right = torch.randn(MATMUL_SIZE, MATMUL_SIZE).to(dtype)
    seconds = median_seconds(lambda: left @ right, repeats)
    return 2 * MATMUL_SIZE**3 / seconds
