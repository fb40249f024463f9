"""Autocast's CUDA rules against PyTorch's own lists, and where they hold."""

from __future__ import annotations

import ast
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.video.attention import VideoAttention
from models.video.base import VideoModelConfig, create_base
from train.planning.gpu_rules import (
    FLOAT32_OPERATIONS,
    FLOAT32_RESULTS,
    CudaAutocast,
    backward,
    use_gpu_attention,
)


def listed_by_pytorch(*lists: str) -> set[str]:
    """Operations in the lists that PyTorch tests CUDA's autocast by; read, since importing them needs more."""
    path = Path(torch.__file__).parent / "testing" / "_internal" / "autocast_test_lists.py"
    tests = next(
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "AutocastTestLists"
    )
    return {
        ast.literal_eval(entry.elts[0])
        for node in ast.walk(tests)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in lists
        for entry in getattr(node.value, "elts", ())
        if isinstance(entry, ast.Tuple)
    }


def test_the_operations_are_those_that_pytorch_tests() -> None:
    named = listed_by_pytorch("self.torch_fp32", "self.nn_fp32")
    ours = FLOAT32_OPERATIONS | FLOAT32_RESULTS
    assert named - ours == {"nll_loss2d"}  # has no name of its own in Python
    assert ours - named <= {"huber_loss", "nuclear_norm"}


def test_normalisation_is_in_float32_and_products_are_not() -> None:
    x = torch.randn(4, 8)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = linear(x)
        assert half.dtype == norm(half).dtype == torch.bfloat16
        with CudaAutocast():
            assert linear(x).dtype == torch.bfloat16
            assert norm(half).dtype == torch.float32
            assert half.sum().dtype == half.softmax(-1).dtype == torch.float32
            assert F.mse_loss(half, half).dtype == torch.float32
            assert F.gelu(half).dtype == (half + half).dtype == torch.bfloat16
            with torch.autocast("cpu", enabled=False):
                assert half.sum().dtype == torch.bfloat16
    with CudaAutocast():
        assert half.sum().dtype == torch.bfloat16


def test_rules_hold_for_what_is_computed_again() -> None:
    """Checkpointing would say so if the second time gave other dtypes."""
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 8)
    with CudaAutocast(), torch.autocast("cpu", torch.bfloat16):
        run = checkpoint(lambda x: norm(linear(x)), torch.randn(4, 8), use_reentrant=False)
        backward(run.square().mean())
    assert linear.weight.grad is not None
    again = [p.grad.clone() for p in (norm.weight, linear.weight) if p.grad is not None]
    assert len(again) == 2


def test_the_gpus_attention_replaces_the_cpus_everywhere() -> None:
    config = VideoModelConfig(
        latent_channels=4, heads=2, head_width=16, layers=2, time_width=16, text_width=8,
        text_tokens=3, num_frames=9, height=32, width=48, learned_positions=False,
    )  # fmt: skip
    transformer = create_base(config).transformer
    found = [layer.processor for layer in transformer.modules() if hasattr(layer, "processor")]
    assert len(found) == 2 and all(isinstance(p, VideoAttention) for p in found)
    use_gpu_attention(transformer)
    now = [layer.processor for layer in transformer.modules() if hasattr(layer, "processor")]
    assert [type(p).__name__ for p in now] == ["CogVideoXAttnProcessor2_0"] * 2
