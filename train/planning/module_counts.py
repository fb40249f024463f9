"""Parameters by module: which train, which are frozen, and what the frozen ones take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from train.planning.outline import Outline

FEW_CHILDREN = 8
"""A module with more children than that is not taken apart."""


@dataclass(frozen=True)
class ModuleCount:
    """Parameters of one module; each parameter counts where it comes first. Bytes include frozen buffers."""

    name: str
    trained: int
    frozen: int
    frozen_bytes: int


def count_modules(outline: Outline) -> tuple[ModuleCount, ...]:
    """Of the model's parts, then of the frozen modules outside of it."""
    seen: set[int] = set()
    found = [_count(name, module, seen, trains=True) for name, module in _parts(outline.model)]
    found += [_count(name, part, seen, trains=False) for name, part in outline.frozen.items()]
    return tuple(count for count in found if count.trained or count.frozen_bytes)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The model's children, or where there is but one of them its own; then what belongs to none."""
    name, module = "", model
    children = list(model.named_children())
    while len(children) == 1 and 1 < len(list(children[0][1].children())) <= FEW_CHILDREN:
        name, module = f"{name}{children[0][0]}.", children[0][1]
        children = list(module.named_children())
    for child, part in children:
        yield name + child, part
    yield "other", model


def _count(name: str, module: nn.Module, seen: set[int], trains: bool) -> ModuleCount:
    trained = frozen = size = 0
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if trains and tensor.requires_grad:
            trained += tensor.numel()
        else:
            frozen += tensor.numel() if isinstance(tensor, nn.Parameter) else 0
            size += tensor.nbytes
    return ModuleCount(name, trained, frozen, size)
