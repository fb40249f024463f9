"""Set-up shared by all tests: no network, and every shape in a signature checked at every call."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "data", "models", "train", "eval")
KERNELS = ("models.rendering.kernels",)
"""Modules of ours that import numba for others."""

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")


def imports_numba(source: str) -> bool:
    """Whether a module holds numba kernels: numba can't compile a function wrapped in a check."""
    for node in ast.parse(source).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name and (name.split(".")[0] == "numba" or name in KERNELS) for name in names):
            return True
    return False


def checked_modules() -> list[str]:
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if path.name != "__init__.py" and not imports_numba(path.read_text(encoding="utf-8"))
    ]


# It has to be here, before any test module imports ours.
install_import_hook(checked_modules(), "beartype.beartype")
