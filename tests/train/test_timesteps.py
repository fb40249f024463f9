"""Noise levels: each density against its analytic distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from train.timesteps import TimestepConfig

CASES = {
    "uniform": (TimestepConfig(), stats.uniform.cdf),
    "logit_normal": (
        TimestepConfig(kind="logit_normal", mean=0.5, std=0.8),
        lambda u: stats.norm.cdf((np.log(u / (1 - u)) - 0.5) / 0.8),
    ),
    "power": (TimestepConfig(kind="power", exponent=2.0), lambda u: u**3),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_density(name: str) -> None:
    config, distribution = CASES[name]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([config.draw(8, 1000, generator) for _ in range(500)])
    assert drawn.min() >= 0 and drawn.max() <= 999
    middle = (drawn.double().numpy() + 0.5) / 1000
    assert stats.kstest(middle, distribution).statistic < 0.02


def test_every_batch_is_spread_over_the_density_in_random_order() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([TimestepConfig().draw(4, 1000, generator) for _ in range(50)])
    quarters = drawn // 250
    assert torch.equal(quarters.sort(dim=1).values, torch.arange(4).expand(50, 4))
    assert len({tuple(row) for row in quarters.tolist()}) > 10


def test_power_favours_high_noise_and_zero_is_uniform() -> None:
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    torch.testing.assert_close(TimestepConfig(kind="power", exponent=0).quantile(shares), shares)
    assert (TimestepConfig(kind="power", exponent=0.5).quantile(shares) > shares).all()


def test_the_same_generator_gives_the_same_steps() -> None:
    one, two = (
        TimestepConfig(kind="logit_normal").draw(16, 1000, torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, two)
    assert one.dtype == torch.int64
