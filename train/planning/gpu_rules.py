"""What a GPU does otherwise than a CPU in a training step, for fake tensors that stand for a GPU's.

They are CPU tensors to PyTorch, since autograd takes no CUDA tensors in a build without CUDA. Two things that
matter for memory would then differ: autocast, whose CUDA rules keep more operations in float32, and the
attention of the video transformer, which has a way of its own on CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from models.video.attention import VideoAttention

FLOAT32_OPERATIONS = frozenset({
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p",
    "reciprocal", "rsqrt", "sinh", "tan", "pow", "softplus", "layer_norm", "rms_norm",
    "group_norm", "norm", "nuclear_norm", "cosine_similarity", "poisson_nll_loss",
    "cosine_embedding_loss", "nll_loss", "hinge_embedding_loss", "kl_div", "l1_loss",
    "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss",
    "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss",
    "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp",
})  # fmt: skip
"""Operations whose inputs autocast casts to float32 on CUDA (PyTorch, "CUDA Ops that can autocast to float32")."""
FLOAT32_RESULTS = frozenset({"softmax", "log_softmax", "cumprod", "cumsum", "prod", "sum"})
"""Operations of the same list that sum up in float32 without a cast copy of their input."""


class CudaAutocast(TorchFunctionMode):
    """Makes CPU autocast obey CUDA's rules for operations in float32; both cast the same ones to half precision."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu"):
            name = getattr(func, "__name__", "")
            name = "pow" if name == "__pow__" else name
            if name in FLOAT32_OPERATIONS:
                args, kwargs = tree_map(_to_float32, (args, kwargs))
            elif name in FLOAT32_RESULTS and kwargs.get("dtype") is None and _is_half(args):
                kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)


def backward(loss: Tensor) -> None:
    """`loss.backward()`, with the modes that are entered holding for what checkpointing computes again.

    PyTorch suspends the mode of functions within its own `backward`, which is such a function.
    """
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), True, True
    )


def use_gpu_attention(module: nn.Module) -> None:
    """Gives every attention layer of CogVideoX below `module` the processor that runs on GPUs."""
    for layer in module.modules():
        processor = getattr(layer, "processor", None)
        if isinstance(processor, VideoAttention):
            layer.processor = processor.elsewhere


def _to_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def _is_half(args: Any) -> bool:
    first = args[0] if args else None
    return isinstance(first, Tensor) and first.dtype in (torch.bfloat16, torch.float16)
