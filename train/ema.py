"""A running average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """Exponential moving average of tensors, kept in float32 beside them.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights fade soon.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.averages = {name: value.detach().float().clone() for name, value in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Moves every average towards its tensor."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        current = [tensors[name].detach().float() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)

    @contextmanager
    def swapped_into(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Puts the averages in the tensors' places, and the tensors back at the end, bit for bit."""
        with torch.no_grad():
            kept = {name: tensors[name].detach().clone() for name in self.averages}
            for name, average in self.averages.items():
                tensors[name].detach().copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    tensors[name].detach().copy_(value)
