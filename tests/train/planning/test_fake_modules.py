"""Modules made fake: the same tensors in shape and kind, tied where they were tied, and movable."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from train.planning.fake_modules import every_tensor, make_fake, movable

CPU, META = torch.device("cpu"), torch.device("meta")


def tied() -> tuple[nn.Module, nn.Module]:
    """Two modules on the meta device: the second's weight is the first's, and frozen things are in both."""
    with torch.device("meta"):
        first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        second = nn.Linear(3, 3, dtype=torch.bfloat16).requires_grad_(False)
    second.weight = first[0].weight
    return first, second


def test_tied_tensors_stay_tied() -> None:
    first, second = tied()
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake([first, second], CPU)
    assert second.weight is first[0].weight
    assert all(isinstance(t.data, FakeTensor) for t in every_tensor([first, second]))
    assert all(t.device == CPU for t in every_tensor([first, second]))
    assert second.weight.requires_grad and not second.bias.requires_grad
    assert second.bias.dtype == torch.bfloat16 and first[1].running_mean.shape == (3,)
    assert len({id(t) for t in every_tensor([first, second])}) == 2 + 5 + 1


def test_they_move_as_real_modules_do() -> None:
    first, _ = tied()
    with FakeTensorMode(allow_non_fake_inputs=True), movable():
        make_fake([first], CPU)
        assert first.to(META) is first
    assert all(t.device == META for t in every_tensor([first]))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in first.parameters())
    assert nn.Module._apply.__module__.startswith("torch")


def test_without_it_they_do_not() -> None:
    """Should PyTorch learn to, `movable` can go."""
    first, _ = tied()
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake([first], CPU)
        reference = weakref.ref(first[0].weight)
        with pytest.raises(RuntimeError, match="Couldn't swap"):
            first.to(META)
    assert reference() is not None
