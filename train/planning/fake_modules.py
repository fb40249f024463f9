"""Modules whose tensors are fake: made from those on the meta device, and moved as real ones are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn


def make_fake(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Replaces every parameter and buffer by a fake one on `device`; what was one tensor stays one.

    Called within a FakeTensorMode.
    """
    fakes: dict[int, Tensor] = {}
    originals: list[Tensor] = []  # kept, so that no other tensor gets the id of one
    for module in (part for whole in modules for part in whole.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    originals.append(tensor)
                    fake: Tensor = torch.empty_like(tensor, device=device)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, tensor.requires_grad)
                    fakes[id(tensor)] = fakes[id(fake)] = fake
                tensors[name] = fakes[id(tensor)]  # type: ignore[assignment]


def every_tensor(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """All parameters and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


@contextmanager
def movable() -> Iterator[None]:
    """Lets `Module.to` move modules of fake tensors meanwhile; PyTorch 2.13 refuses to where weak references are."""
    with mock.patch.object(nn.Module, "_apply", _apply):
        yield


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    if recurse:
        for child in module.children():
            child._apply(fn)
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            with torch.no_grad():
                moved = fn(tensor)
            if moved is not tensor and isinstance(tensor, nn.Parameter):
                moved = nn.Parameter(moved, tensor.requires_grad)
            tensors[name] = moved  # type: ignore[assignment]
    return module
