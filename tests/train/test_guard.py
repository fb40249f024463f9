from __future__ import annotations

import json
import math

import pytest

from train.guard import MIN_HISTORY, Guard, GuardConfig


def seasoned(config: GuardConfig) -> Guard:
    guard = Guard(config)
    for number in range(MIN_HISTORY):
        guard.record(loss=1.0 + number % 3, norm=2.0, applied=True)
    return guard


def test_nan_and_infinity_are_bad_from_the_first_step() -> None:
    guard = Guard(GuardConfig())
    assert guard.loss_is_bad(math.nan) and guard.loss_is_bad(-math.inf)
    assert not guard.loss_is_bad(1e30)
    assert guard.norm_limit == math.inf


def test_a_spike_is_judged_by_the_recent_median() -> None:
    guard = seasoned(GuardConfig(loss_spike=10.0, norm_spike=5.0))
    assert not guard.loss_is_bad(20.0) and guard.loss_is_bad(20.1) and guard.loss_is_bad(-20.1)
    assert guard.norm_limit == 10.0
    assert not seasoned(GuardConfig(loss_spike=None)).loss_is_bad(1e30)


def test_left_out_steps_do_not_move_the_limits() -> None:
    guard = seasoned(GuardConfig())
    before = guard.norm_limit
    for _ in range(50):
        guard.record(loss=1e6, norm=1e6, applied=False)
    assert guard.norm_limit == before and guard.num_skipped == 50


def test_a_good_step_ends_the_count() -> None:
    guard = Guard(GuardConfig(max_bad_steps=2))
    guard.record(math.nan, math.nan, applied=False)
    guard.record(1.0, 1.0, applied=True)
    guard.record(math.nan, math.nan, applied=False)
    assert not guard.gives_up
    guard.record(math.nan, math.nan, applied=False)
    assert guard.gives_up


def test_the_state_survives_json() -> None:
    guard = seasoned(GuardConfig())
    guard.record(0.1 + 0.2, 1 / 3, applied=True)
    other = Guard(GuardConfig())
    other.load_state(json.loads(json.dumps(guard.state())))
    assert other.state() == guard.state()
    assert other.norm_limit == pytest.approx(guard.norm_limit, rel=0)
