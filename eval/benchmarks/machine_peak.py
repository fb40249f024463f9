"""What this machine reaches at its best, measured: the limit that benchmarks are held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

MATMUL_SIZE = 1024
GPU_MATMUL_SIZE = 8192
CPU = torch.device("cpu")


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of `run` over `repeats` calls, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def matmul_peak(dtype: torch.dtype, repeats: int = 7, device: torch.device = CPU) -> float:
    """FLOP/s of a product of two square matrices, at the threads torch has now."""
    on_gpu = device.type == "cuda"
    size = GPU_MATMUL_SIZE if on_gpu else MATMUL_SIZE
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        if on_gpu:
            torch.cuda.synchronize(device)

    return 2 * size**3 / median_seconds(multiply, repeats)
