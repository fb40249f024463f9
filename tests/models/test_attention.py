from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from models.attention import attention, choose_backend


def test_equals_the_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator).double() for n in (5, 7, 7))
    weights = torch.softmax(q @ k.mT / 8**0.5, dim=-1)
    torch.testing.assert_close(attention(q, k, v), weights @ v)


def test_xformers_on_the_cpu_is_refused_and_never_chosen() -> None:
    cpu = torch.device("cpu")
    assert choose_backend("auto", cpu) == "sdpa"
    with pytest.raises(UserError, match="needs CUDA tensors"):
        choose_backend("xformers", cpu)


@pytest.mark.gpu
def test_what_runs_on_cuda_equals_sdpa() -> None:
    q, k, v = (torch.randn(1, 2, 64, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    expected = attention(q, k, v, "sdpa")
    torch.testing.assert_close(attention(q, k, v), expected, atol=2e-3, rtol=1e-2)
