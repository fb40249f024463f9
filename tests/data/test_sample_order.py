"""The order of samples: shares of the sources, permutations, and any position found at once."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from configs.errors import UserError
from data.sample_order import BLOCK, SampleOrder


def test_sources_come_in_their_shares_each_clip_before_any_comes_again():
    order = SampleOrder([7, 30], [3.0, 1.0], seed=1)
    drawn = [order.clip_at(position) for position in range(2 * BLOCK)]
    assert [Counter(source for source, _ in drawn[:BLOCK])[s] for s in (0, 1)] == [750, 250]
    for source, size in [(0, 7), (1, 30)]:
        numbers = [number for s, number in drawn if s == source]
        for start in range(0, len(numbers) - size, size):
            assert sorted(numbers[start : start + size]) == list(range(size))
    # Any position is found without the ones before it.
    assert [SampleOrder([7, 30], [3.0, 1.0], seed=1).clip_at(p) for p in (0, 999, 1000, 1777)] == [
        drawn[p] for p in (0, 999, 1000, 1777)
    ]
    # The mixture is shuffled, not laid in stretches.
    assert max(len(list(run)) for _, run in itertools.groupby(s for s, _ in drawn)) < 50


def test_stand_ins_are_all_other_clips_in_the_order_of_the_epoch():
    order = SampleOrder([6], [1.0], seed=3)
    epoch = [order.clip_at(position)[1] for position in range(6, 12)]
    for position in range(6, 12):
        candidates = [number for _, number in order.candidates(position)]
        assert candidates == epoch[position - 6 :] + epoch[: position - 6]


def test_random_numbers_belong_to_a_position_and_a_seed():
    draws = {
        (seed, position): tuple(
            torch.rand(2, generator=SampleOrder([5], [1.0], seed).generator(position)).tolist()
        )
        for seed in (0, 1)
        for position in (0, 1, 2, 10**9)
    }
    assert len(set(draws.values())) == len(draws)
    again = SampleOrder([5, 8], [1.0, 2.0], 1).generator(10**9)
    assert tuple(torch.rand(2, generator=again).tolist()) == draws[1, 10**9]


def test_shares_are_exact_to_a_thousandth():
    order = SampleOrder([10, 10, 10], [1.0, 1.0, 1.0], seed=0)
    counts = Counter(order.clip_at(position)[0] for position in range(BLOCK))
    assert sorted(counts.values()) == [333, 333, 334]


def test_empty_sources_are_refused():
    for sizes in ([], [3, 0]):
        with pytest.raises(UserError, match="expected at least one clip in each"):
            SampleOrder(sizes, [1.0] * len(sizes), seed=0)
