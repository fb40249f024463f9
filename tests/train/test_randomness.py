from __future__ import annotations

import itertools

import torch

from train.randomness import derive_seed, seed_step


def test_seeds_depend_on_every_part_and_their_order() -> None:
    parts = list(itertools.product(range(4), repeat=3))
    assert len({derive_seed("x", *p) for p in parts}) == len(parts)
    assert derive_seed(1, 23) != derive_seed(12, 3) and derive_seed("1") != derive_seed(1)
    assert derive_seed("step", 0, 7, 1, 0) == 2809698149504225446


def test_the_global_generator_repeats_with_the_step() -> None:
    seed_step(0, 5, 0, 0)
    first = torch.rand(3)
    seed_step(0, 6, 0, 0)
    assert not torch.equal(torch.rand(3), first)
    seed_step(0, 5, 0, 0)
    assert torch.equal(torch.rand(3), first)
