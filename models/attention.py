"""Attention kernels behind one call: torch's SDPA everywhere, xformers on CUDA where its kernel loads."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError

AttentionBackend = Literal["auto", "sdpa", "xformers"]


def attention(
    queries: Float[Tensor, "b head query d"],
    keys: Float[Tensor, "b head key d"],
    values: Float[Tensor, "b head key d"],
    backend: AttentionBackend = "auto",
) -> Float[Tensor, "b head query d"]:
    """Scaled dot-product attention, unmasked. `auto` takes xformers on CUDA if it runs, else SDPA.

    Raises UserError where `xformers` is asked for and cannot run.
    """
    if choose_backend(backend, queries.device) == "sdpa":
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    from xformers.ops import memory_efficient_attention

    heads_last = [x.transpose(1, 2) for x in (queries, keys, values)]
    return memory_efficient_attention(*heads_last).transpose(1, 2)


def choose_backend(backend: AttentionBackend, device: torch.device) -> Literal["sdpa", "xformers"]:
    """The kernel that `attention` will run for tensors on `device`."""
    if backend == "sdpa" or (backend == "auto" and device.type != "cuda"):
        return "sdpa"
    problem = "needs CUDA tensors" if device.type != "cuda" else xformers_problem()
    if problem is None:
        return "xformers"
    if backend == "xformers":
        raise UserError(f"attention backend xformers {problem}; set it to 'sdpa' or 'auto'")
    return "sdpa"


@functools.cache
def xformers_problem() -> str | None:
    """Why xformers' attention cannot run on this machine's GPU, or None where it can (tried once)."""
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.zeros(1, 8, 1, 64, device="cuda", dtype=torch.float16)
        memory_efficient_attention(probe, probe, probe)
    except ImportError:
        return "is not installed (pip install 'stillscape[gpu]')"
    except (NotImplementedError, RuntimeError) as error:
        return f"does not run here: {str(error).splitlines()[0]}"
    return None
