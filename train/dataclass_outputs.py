"""Lets DeepSpeed's stage 3 see the tensors in what modules return.

It learns from a module's output when the backward pass comes to that module, but looks into tuples and lists only; of
a module that returns a dataclass (LaLRM's Gaussians) it would learn nothing, and fail. So while its own hooks run,
such an output is a tuple of the dataclass's fields.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import nn


class OpenedOutputs:
    """Opens the dataclasses that `module` and its parts return, from its making on.

    Make it before, and call `close_again` after, something registers hooks that are to see tuples.
    """

    def __init__(self, module: nn.Module) -> None:
        self._modules = list(module.modules())
        self._returned: dict[nn.Module, list[Any]] = {part: [] for part in self._modules}
        for part in self._modules:
            part.register_forward_hook(self._open)

    def close_again(self) -> None:
        """From here on hooks, and callers, see dataclasses."""
        for part in self._modules:
            part.register_forward_hook(self._close)

    def _open(self, module: nn.Module, args: Any, output: Any) -> Any:
        opened = is_dataclass(output) and not isinstance(output, type)
        self._returned[module].append(output if opened else None)
        return tuple(getattr(output, field.name) for field in fields(output)) if opened else None

    def _close(self, module: nn.Module, args: Any, output: Any) -> Any:
        returned = self._returned[module].pop()
        if returned is None:
            return None
        names = [field.name for field in fields(returned)]
        return replace(returned, **dict(zip(names, output, strict=True)))
