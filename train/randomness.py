"""Seeds as a function of what they are for, so that any moment of a run can be repeated."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and their order; equal parts give equal seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_step(seed: int, step: int, part: int, rank: int) -> torch.Generator:
    """The CPU generator for one part of one step; seeds torch's global generators alike.

    The global ones serve layers that take no generator (dropout), and nothing else may rely on them.
    """
    value = derive_seed("step", seed, step, part, rank)
    torch.manual_seed(value)
    return torch.Generator().manual_seed(value)
