from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.video.base import VideoBase
from models.video.model import VideoModel

NewBase = Callable[..., VideoBase]


def run(base: VideoBase, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
    model = VideoModel(base, train_base=True)
    model.zero_grad()
    output = model(*inputs)
    output.square().mean().backward()
    return output, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_diffusers_attention(
    new_video_base: NewBase, video_inputs: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0

    base = new_video_base()
    base.transformer.to(dtype)
    output, gradients = run(base, video_inputs)
    base.transformer.set_attn_processor(CogVideoXAttnProcessor2_0())
    expected, expected_gradients = run(base, video_inputs)
    close = {} if dtype != torch.bfloat16 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(output, expected, **close)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        scale = wanted.abs().max().clamp_min(1e-6)
        torch.testing.assert_close(
            found / scale, wanted / scale, **(close or {"rtol": 1e-4, "atol": 1e-4})
        )
