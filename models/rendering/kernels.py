"""How our numba kernels are compiled, and when a kept one is out of date.

numba keeps compiled kernels beside the file that holds them, and compiles again when that file changes. It does
not see a change in another file that the kernel calls into, so here all of `SOURCES` count: the digest of them
is what a kept kernel must match.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

SOURCES = ("simd.py", "kernels.py", "settings.py", "cpu_*.py")


def source_digest() -> str:
    """sha256 of every file that kernels are made of."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(Path(__file__).parent.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


DIGEST = source_digest()


def kernel(function: Callable[..., Any]) -> Any:
    """A compiled function to be called from Python: lets other threads run meanwhile, kept on disk.

    Arrays are not bounds-checked and division by zero gives infinity. Write loops instead of assigning to slices,
    which costs seconds of compilation.
    """
    dispatcher = njit(nogil=True, cache=True, error_model="numpy")(function)
    dispatcher._cache._cache_file._source_stamp = DIGEST
    return dispatcher


def inline(function: Callable[..., Any]) -> Any:
    """A compiled function to be called from kernels, always inlined."""
    return njit(error_model="numpy", forceinline=True)(function)
