"""Finds floating dtypes that meet where kernels refuse it, since fake tensors let them pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ONE_DTYPE = frozenset(
    {
        aten.mm,
        aten.addmm,
        aten.bmm,
        aten.baddbmm,
        aten.convolution,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_efficient_attention,
    }
)
"""Operations whose floating inputs must all be of one dtype."""
ONE_DTYPE_ON_GPU = ONE_DTYPE | {aten.native_layer_norm, aten.native_group_norm}


class DtypeCheck(TorchDispatchMode):
    """Raises RuntimeError where the inputs of such an operation differ in dtype."""

    def __init__(self, on_gpu: bool) -> None:
        super().__init__()
        self.checked = ONE_DTYPE_ON_GPU if on_gpu else ONE_DTYPE

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in self.checked:
            found = {a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()}
            if len(found) > 1:
                dtypes = " and ".join(sorted(str(dtype) for dtype in found))
                raise RuntimeError(f"{func}: expected inputs of one dtype, found {dtypes}")
        return func(*args, **(kwargs or {}))
