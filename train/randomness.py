"""Seeds as a function of what they are for, so that any moment of a run can be repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from data.loader import POSITION


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and their order; equal parts give equal seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_step(seed: int, step: int, part: int, rank: int) -> torch.Generator:
    """The CPU generator for one part of one step, the same on every rank; `SampleDraws` makes use of it.

    Seeds torch's global generators too, for each rank with another number. They serve layers that take no
    generator (dropout), and nothing else may rely on them.
    """
    torch.manual_seed(derive_seed("step", seed, step, part, rank))
    return torch.Generator().manual_seed(derive_seed("step", seed, step, part, 0))


class SampleDraws:
    """Random numbers for the samples of a batch, whichever ranks they are shared among.

    What a sample gets depends on the generator's seed, its position in the run, and what it is drawn for (a
    name). So k ranks draw for a global batch what one process would draw for it.

    batch: of the loader, whose "position" tells which samples these are; without it they count from 0.
    batch_size: samples of the global batch.
    """

    def __init__(
        self, generator: torch.Generator, batch: Mapping[str, Tensor], batch_size: int
    ) -> None:
        count = len(next(iter(batch.values())))
        given = POSITION in batch
        self.positions = batch[POSITION].tolist() if given else list(range(count))
        self.total = batch_size if given else count
        self._seed = generator.initial_seed()

    def generators(self, name: str) -> list[torch.Generator]:
        """One for each sample of this rank."""
        return [
            torch.Generator().manual_seed(derive_seed(name, self._seed, position))
            for position in self.positions
        ]

    def normal(self, name: str, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Normal numbers, of the given shape for each sample."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators(name)])

    def uniform(self, name: str, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Uniform numbers in [0, 1), of the given shape for each sample."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators(name)])

    def shared(self, name: str) -> torch.Generator:
        """The same on every rank, for what belongs to the global batch as a whole."""
        return torch.Generator().manual_seed(derive_seed(name, self._seed))

    @property
    def places(self) -> list[int]:
        """Where in the global batch this rank's samples are, from 0 to `total` - 1."""
        return [position % self.total for position in self.positions]
