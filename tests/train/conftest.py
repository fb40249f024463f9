"""Fixtures of the training tests: toy runs, at hand and finished."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for toy_run

from toy_run import ToyRun


@pytest.fixture
def toy(tmp_path: Path) -> Callable[[str], ToyRun]:
    """Makes toy runs by name."""
    torch.set_num_threads(1)
    return lambda name: ToyRun(tmp_path, name)


@pytest.fixture(scope="session")
def finished_toy(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A toy run that nothing disturbed."""
    torch.set_num_threads(1)
    toy = ToyRun(tmp_path_factory.mktemp("finished"), "finished")
    assert toy.start() == 0
    return toy
