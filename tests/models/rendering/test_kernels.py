"""Kept kernels must not outlive a change of the files they were made of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from models.rendering import kernels


def load_module(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("digest", "compiled_again"), [("before", False), ("after", True)])
def test_a_kept_kernel_is_used_only_for_its_own_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str, compiled_again: bool
) -> None:
    path = tmp_path / "sample_kernel.py"
    path.write_text(
        "from models.rendering.kernels import kernel\n@kernel\ndef double(x):\n    return 2 * x\n"
    )
    monkeypatch.setattr(kernels, "DIGEST", "before")
    assert load_module(path, "sample_kernel").double(3) == 6
    monkeypatch.setattr(kernels, "DIGEST", digest)
    again = load_module(path, "sample_kernel").double
    assert again(3) == 6
    assert (sum(again.stats.cache_misses.values()) == 1) is compiled_again


def test_the_digest_covers_every_kernel_file() -> None:
    folder = Path(kernels.__file__).parent
    covered = {path.name for pattern in kernels.SOURCES for path in folder.glob(pattern)}
    with_kernels = {
        path.name
        for path in folder.glob("*.py")
        if "from models.rendering.kernels import" in path.read_text()
    }
    assert with_kernels
    assert with_kernels <= covered
