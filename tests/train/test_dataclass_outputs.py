from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.dataclass_outputs import OpenedOutputs


@dataclass(frozen=True)
class Pair:
    left: Tensor
    right: Tensor | None
    name: str


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x + 1, None, "inner")


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.linear = Inner(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Pair:
        first, second = self.inner(x), self.inner(2 * x)
        return Pair(self.linear(first.left), second.left, first.name)


def test_hooks_between_see_tuples_and_callers_see_dataclasses() -> None:
    model = Outer()
    x = torch.ones(3, 2)
    expected = model(x)
    seen: list[object] = []

    def hook(module: nn.Module, args: object, output: object) -> object:
        seen.append(output)
        return (
            tuple(v * 1 if isinstance(v, Tensor) else v for v in output)
            if isinstance(output, tuple)
            else None
        )

    opened = OpenedOutputs(model)
    for part in model.modules():
        part.register_forward_hook(hook)
    opened.close_again()
    found = model(x)
    assert isinstance(found, Pair) and found.name == "inner"
    assert torch.equal(found.left, expected.left) and torch.equal(found.right, expected.right)
    assert [type(output) for output in seen] == [tuple, tuple, Tensor, tuple]
