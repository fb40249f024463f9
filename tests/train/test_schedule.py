from __future__ import annotations

import math

import pytest
import torch

from train.schedule import ScheduleConfig


def test_values_at_the_corners() -> None:
    schedule = ScheduleConfig(warmup_steps=4, floor=0.1)
    factors = [schedule.factor(step, steps=14) for step in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.55)  # half way down
    assert factors[14] == pytest.approx(0.1)
    assert schedule.factor(1000, steps=14) == pytest.approx(0.1)


def test_the_cosine_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.2)
    schedule = ScheduleConfig(warmup_steps=0, floor=0.2)
    for step in range(30):
        assert math.isclose(schedule.factor(step, 30), reference.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        reference.step()


def test_a_warm_up_as_long_as_the_run_is_allowed() -> None:
    assert ScheduleConfig(warmup_steps=10).factor(10, steps=10) == 1.0
