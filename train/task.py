"""The one seam between the training loop and what it trains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Validation:
    """What a task reports about a model.

    scalars: named figures, such as PSNR [dB].
    images: named pictures `[3 h w]` in [0, 1]; their sizes may differ.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, Float[Tensor, "3 h w"]] = field(default_factory=dict)


@runtime_checkable
class Batches(Protocol):
    """An endless stream of training batches.

    Each item is this rank's share of the next global batch, stacked along axis 0. What it holds may
    depend on the run's seed and its place in the stream alone, so that a stream opened with `start=n`
    gives what another gives after n items.

    damaged: the samples that this rank could not read so far, of any type that can be hashed.
    """

    @property
    def damaged(self) -> Sequence[Any]: ...

    def check_damage(self, damaged: Collection[Any]) -> None:
        """Raises UserError where these, of all ranks together, are more than the run may do without."""
        ...

    def __iter__(self) -> Iterator[dict[str, Tensor]]: ...

    def close(self) -> None: ...


@runtime_checkable
class Task(Protocol):
    """Builds a model and says how it is trained, judged and exported; the loop does the rest.

    - `build` holds only what trains. Frozen helpers (autoencoder, text encoder) stay in the task, outside
      the engine, which would shard and save them.
    - `losses` and `validate` get `model` as the engine wraps it: call it (`model(x)`) or read its attributes,
      but do not test its class. `export` gets the bare module of `build`.
    - Randomness comes from the loader's samples or, through `train.randomness.SampleDraws`, from `generator`
      (a CPU generator seeded by run seed, step and part of the batch, the same on every rank), so that the
      gradient does not depend on the number of ranks. Nor may a mean over the batch: it has to be the mean over
      samples of what each gives alone. Layers that take no generator (dropout) draw from torch's global one,
      which the loop seeds for each rank.
    - Under `engine.precision=bf16` `losses` and `validate` run inside autocast; turn it off around what
      needs full precision.
    """

    def build(self) -> nn.Module:
        """The module to train, with its initial weights; the same on every call and rank."""
        ...

    def loader(self, *, rank: int, world_size: int, start: int) -> Batches:
        """The stream for one rank, `start` global batches in."""
        ...

    def losses(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Named scalars of one batch: "loss" is minimised, all are logged. The same names on every rank."""
        ...

    def validate(self, model: nn.Module) -> Validation:
        """Scores on fixed data; called in eval mode, without gradients, on every rank."""
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes the weights for use (safetensors and config.json)."""
        ...


@runtime_checkable
class TaskConfig(Protocol):
    """A task's part of a recipe."""

    @property
    def kind(self) -> str: ...

    def create(self, seed: int) -> Task: ...

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]: ...
