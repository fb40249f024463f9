from __future__ import annotations

import torch

from train.ema import Ema


def test_the_average_is_the_weighted_sum_of_the_past() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    weight = values[0].clone()
    ema = Ema({"w": weight}, decay=0.8)
    expected = values[0].clone()
    for n, value in enumerate(values[1:]):
        weight.copy_(value)
        ema.update({"w": weight})
        decay = min(0.8, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.averages["w"].double(), expected, rtol=1e-5, atol=1e-6)
    assert ema.num_updates == 39


def test_a_swap_is_undone_bit_for_bit_even_after_an_error() -> None:
    weights = {"w": torch.tensor([0.1, 0.2]), "h": torch.tensor([1 / 3], dtype=torch.bfloat16)}
    ema = Ema(weights, decay=0.5)
    kept = {name: value.clone() for name, value in weights.items()}
    for value in weights.values():
        value.add_(1)
    moved = {name: value.clone() for name, value in weights.items()}
    try:
        with ema.swapped_into(weights):
            assert all(torch.equal(weights[name], kept[name]) for name in weights)
            raise RuntimeError
    except RuntimeError:
        pass
    assert all(torch.equal(weights[name], moved[name]) for name in weights)
