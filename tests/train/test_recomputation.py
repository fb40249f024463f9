from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.recomputation import RecomputationCheck


class Blocks(nn.Module):
    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x) if number < self.kept else checkpoint(block, x, use_reentrant=False)
        return x


def count_step(model: Blocks, parts: int = 2) -> RecomputationCheck:
    check = RecomputationCheck(list(model.blocks))
    for _ in range(parts):
        loss = model(torch.ones(2, 3)).sum()
        with check.backward():
            loss.backward()
    return check


def test_blocks_that_are_computed_again_are_counted() -> None:
    assert count_step(Blocks(kept=0)).finish() == (
        "activation checkpointing is on: 3 blocks are computed again in the backward pass"
    )
    assert RecomputationCheck(()).finish() is None


@pytest.mark.parametrize("kept", [1, 3])
def test_blocks_that_are_not_computed_again_end_the_run(kept: int) -> None:
    with pytest.raises(RuntimeError, match=f"{kept} of 3 blocks were not computed again"):
        count_step(Blocks(kept)).finish()


def test_blocks_that_no_gradient_passes_are_no_matter() -> None:
    model = Blocks(kept=1)
    model.blocks[0].requires_grad_(False)
    assert "2 blocks" in str(count_step(model).finish())


def test_nothing_is_left_on_the_blocks() -> None:
    model = Blocks(kept=0)
    count_step(model).finish()
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in model.blocks)
