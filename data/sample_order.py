"""Which clip stands at which position of a run: closed form, so any position is found at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from configs.errors import UserError

BLOCK = 1000
"""Positions over which the shares of several sources come out exactly, to one part in so many. Ours."""

MIXING, SHUFFLING, TRANSFORMING = range(3)


class SampleOrder:
    """The order of one or several sources of clips for a seed.

    Each source is gone through in seeded permutations, one an epoch, so that none of its clips comes
    twice before all have come once. With several sources, each block of `BLOCK` positions holds every
    source in its share, in a seeded order.

    sizes: clips in each source. weights: their shares, any positive scale.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError(f"sources with {list(sizes)} clips; expected at least one clip in each")
        if min(weights) <= 0:
            raise UserError(f"source weights {list(weights)}; expected all of them positive")
        self._sizes = list(sizes)
        self._seed = seed
        self._shares = _block_shares(np.asarray(weights, dtype=np.float64))
        # Per instance, so that neither the cache nor the arrays outlive it.
        self._permutation = functools.lru_cache(maxsize=2 * len(sizes))(self._make_permutation)
        self._block = functools.lru_cache(maxsize=2)(self._make_block)

    def clip_at(self, position: int) -> tuple[int, int]:
        """Source and clip number at `position`."""
        return next(self.candidates(position))

    def candidates(self, position: int) -> Iterator[tuple[int, int]]:
        """The clip at `position`, then those that take its place if it can't be read, each once.

        They are the ones that follow it in its source's permutation of that epoch, around the end.
        """
        source, place = self._source_at(position)
        epoch, first = divmod(place, self._sizes[source])
        permutation = self._permutation(source, epoch)
        for step in range(len(permutation)):
            yield source, int(permutation[(first + step) % len(permutation)])

    def generator(self, position: int) -> torch.Generator:
        """The random numbers that belong to `position`."""
        entropy = np.random.SeedSequence([self._seed, TRANSFORMING, position])
        return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))

    def _source_at(self, position: int) -> tuple[int, int]:
        """The source at `position`, and how many earlier positions had the same one."""
        if len(self._sizes) == 1:
            return 0, position
        block, within = divmod(position, BLOCK)
        sources = self._block(block)
        source = int(sources[within])
        before = np.count_nonzero(sources[:within] == source)
        return source, int(block * self._shares[source] + before)

    def _make_block(self, block: int) -> np.ndarray:
        sources = np.repeat(np.arange(len(self._shares)), self._shares)
        return np.random.default_rng([self._seed, MIXING, block]).permutation(sources)

    def _make_permutation(self, source: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, SHUFFLING, source, epoch])
        return rng.permutation(self._sizes[source])


def _block_shares(weights: np.ndarray) -> np.ndarray:
    """Whole positions of a block for each source, by largest remainders; they sum to `BLOCK`."""
    exact = weights / weights.sum() * BLOCK
    shares = np.floor(exact).astype(np.int64)
    missing = BLOCK - shares.sum()
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    if shares.min() == 0:
        raise UserError(
            f"source weights {weights.tolist()}: one is under a {BLOCK}th of their sum; leave that"
            " source out or raise its weight"
        )
    return shares
