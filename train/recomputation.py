"""Checks that activation checkpointing is really on.

It saves memory by computing blocks again in the backward pass, and libraries leave it off in silence (in eval
mode, or where a wrapper replaces a method). So the first step of a run counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class RecomputationCheck:
    """Counts, from its making to `finish`, how often each block runs forwards and again backwards.

    blocks: those that should be computed again; nothing is counted where there are none.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks = list(blocks)
        self._in_backward = False
        self._again: Counter[int] = Counter()
        self._needed: Counter[int] = Counter()
        self._hooks = [
            hook
            for number, block in enumerate(self.blocks)
            for hook in (
                block.register_forward_pre_hook(self._starts(number)),
                block.register_forward_hook(self._ends(number)),
            )
        ]

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Around each backward pass."""
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = False

    def finish(self) -> str | None:
        """Stops counting; returns what was found, in a sentence. Raises RuntimeError where a block kept its values."""
        for hook in self._hooks:
            hook.remove()
        if not self.blocks:
            return None
        kept = [number for number in self._needed if self._again[number] < self._needed[number]]
        if kept or not self._needed:
            raise RuntimeError(
                f"activation checkpointing was asked for, but {len(kept) or len(self.blocks)} of"
                f" {len(self.blocks)} blocks were not computed again in the backward pass"
            )
        return (
            f"activation checkpointing is on: {len(self._needed)} blocks are computed again in the"
            " backward pass"
        )

    def _starts(self, number: int) -> Any:
        def count(module: nn.Module, args: Any) -> None:
            if self._in_backward:
                self._again[number] += 1

        return count

    def _ends(self, number: int) -> Any:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple | list) else (output,)
            needs = any(isinstance(value, Tensor) and value.requires_grad for value in outputs)
            # A block that no gradient passes keeps nothing, and is not computed again.
            if needs and torch.is_grad_enabled() and not self._in_backward:
                self._needed[number] += 1

        return count
