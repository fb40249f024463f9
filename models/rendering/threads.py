"""Threads for numba kernels that release the GIL.

numba's own parallel loops are not used: their work queue crashes when two Python threads enter it (a backward
pass may run on another thread), and their OpenMP layer ends a forked data-loader worker. A pool of Python threads
has neither fault, starts again after a fork, and leaves the choice of how many to `torch.set_num_threads`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

PIECES_PER_THREAD = 4

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)


def run_pieces(
    kernel: Callable[..., Any],
    num_items: int,
    *args: Any,
    weights: np.ndarray | None = None,
    num_threads: int | None = None,
) -> None:
    """Runs `kernel(first, last, *args)` over pieces of `range(num_items)` that cover it.

    The kernel must give the same result however the range is cut. weights: the items' relative cost, if uneven.
    num_threads: `torch.get_num_threads()` unless given.
    """
    num_threads = num_threads or torch.get_num_threads()
    if num_threads == 1 or num_items <= 1:
        if num_items:
            kernel(0, num_items, *args)
        return
    bounds = piece_bounds(num_items, num_threads * PIECES_PER_THREAD, weights)
    pool = _pools.get(num_threads)
    if pool is None:
        pool = _pools.setdefault(num_threads, ThreadPoolExecutor(num_threads, "render"))
    futures = [
        pool.submit(kernel, first, last, *args) for first, last in pairwise(bounds) if first < last
    ]
    for future in futures:
        future.result()


def piece_bounds(num_items: int, num_pieces: int, weights: np.ndarray | None) -> Sequence[int]:
    """Bounds of at most `num_pieces` runs of items of about equal weight."""
    if weights is None:
        return [num_items * i // num_pieces for i in range(num_pieces + 1)]
    total = np.cumsum(weights, dtype=np.float64)
    shares = np.arange(1, num_pieces) * (total[-1] / num_pieces)
    return [0, *np.searchsorted(total, shares).tolist(), num_items]
