"""Counts what lives and what is computed while it is entered, for real tensors and fake ones alike.

Every tensor that an operation returns is counted once, by its storage, from then until the storage goes. What a
kernel allocates and frees within itself is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # The CPU's fused attention, which torch's own counter leaves out.
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
"""FLOPs of matrix products, convolutions and attention; a multiplication and an addition are two."""
GRADIENTS = "gradients"
COPIES = "weights in half precision"


class MemoryTracker(TorchDispatchMode):
    """Live bytes by origin, their peaks, and FLOPs.

    live: bytes by what they belong to: GRADIENTS, COPIES, or the `origin` they were made in.
    peak: most bytes at once. peak_beside_gradients: the same without the gradients.
    at_peak: `live` when the latter was reached.
    flops: by origin.
    """

    def __init__(self, rounding: int = 1) -> None:
        """rounding: bytes of the allocator's smallest block."""
        super().__init__()
        self.rounding = rounding
        self.live: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.total = self.peak = self.peak_beside_gradients = 0
        self.at_peak: Counter[str] = Counter()
        self._origin = "other"
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self._weights: set[int] = set()
        self._handles: list[Any] = []

    def leave_out(self, tensors: Iterable[Tensor]) -> int:
        """Takes tensors for known, without counting them; returns their bytes."""
        total = 0
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) not in self._known:
                self._remember(storage, "", 0)
                total += self._size(storage)
        return total

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Has the gradients of parameters counted as such, and their casts as COPIES."""
        for parameter in parameters:
            self._weights.add(id(parameter.untyped_storage()))
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._claim))

    @contextmanager
    def origin(self, name: str) -> Iterator[None]:
        """Books what happens within it under `name`."""
        before, self._origin = self._origin, name
        try:
            yield
        finally:
            self._origin = before

    def restart_peaks(self) -> None:
        """Begins the search for peaks anew from what lives now."""
        self.peak, self.peak_beside_gradients = self.total, self.total - self.live[GRADIENTS]

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        super().__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops[self._origin] += formula(*args, **(kwargs or {}), out_val=result)
        origin = self._origin
        if func is aten._to_copy.default and id(args[0].untyped_storage()) in self._weights:
            origin = COPIES
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf, origin)
        return result

    def _add(self, tensor: Tensor, origin: str) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known or tensor.is_meta:
            return
        size = self._size(storage)
        self._remember(storage, origin, size)
        self.live[origin] += size
        self.total += size
        self._note_peaks()

    def _remember(self, storage: Any, origin: str, size: int) -> None:
        key = id(storage)
        self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), origin, size)

    def _forget(self, key: int) -> None:
        _, origin, size = self._known.pop(key)
        self._weights.discard(key)
        self.live[origin] -= size
        self.total -= size

    def _claim(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        key = id(gradient.untyped_storage())
        reference, origin, size = self._known[key]
        self._known[key] = (reference, GRADIENTS, size)
        self.live[origin] -= size
        self.live[GRADIENTS] += size

    def _note_peaks(self) -> None:
        self.peak = max(self.peak, self.total)
        beside = self.total - self.live[GRADIENTS]
        if beside > self.peak_beside_gradients:
            self.peak_beside_gradients = beside
            self.at_peak = self.live.copy()

    def _size(self, storage: Any) -> int:
        return -(-storage.nbytes() // self.rounding) * self.rounding
