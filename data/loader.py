"""Batches from shards in an order that is a function of (seed, position) alone.

Position p counts the samples that the whole run has consumed, over all ranks. Which clip it is (see
`data.sample_order`) and which random numbers its transform draws depend on nothing but the seed and p:
not on the number of workers or ranks, nor on where the run was stopped and taken up again.
"""

from __future__ import annotations

import atexit
import functools
import logging
import shutil
import signal
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from configs.errors import UserError
from data.sample_order import SampleOrder
from data.shard_index import DamagedSample, ShardIndex
from data.shard_samples import ShardClip
from data.shards import open_clip

Transform = Callable[[ShardClip, torch.Generator], dict[str, Tensor]]
Sources = ShardIndex | Sequence[tuple[ShardIndex, float]]
POSITION = "position"
"""The name in a batch under which each sample's position stands."""
SHARED_MEMORY = Path("/dev/shm")
PREFETCHED_BATCHES = 2
WORKER_TIMEOUT_S = 900
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """A clip that could not be used: source and number within it, and the sentence that says why."""

    source: int
    number: int
    message: str


def mixture(
    indices: Sequence[ShardIndex], weights: Sequence[float] | None = None
) -> list[tuple[ShardIndex, float]]:
    """Sources of a `ClipLoader`: each index with its share of the samples, by default its number of clips.

    Raises UserError where there are not as many weights as indices.
    """
    if weights is None:
        weights = [float(len(index)) for index in indices]
    if len(weights) != len(indices):
        raise UserError(
            f"data_weights has {len(weights)} numbers for {len(indices)} shard folders in data; give"
            " one a folder"
        )
    return list(zip(indices, weights, strict=True))


class ClipLoader:
    """Endless batches of transformed clips; iterate it once, `close()` it or leave it as a context.

    sources: one shard index, or several with weights: the share of samples that each gives.
    batch_size: samples in a global batch. Rank r of n gets its r-th n-th, so the ranks' batches one
        after another are the batch of a single rank.
    transform: turns a lazy clip into tensors of the same names and shapes for every clip. It chooses the
        views before they are decoded, and draws random numbers from the generator alone. Each sample's
        "position" in the run is added to them.
    num_workers: processes that prepare batches (0: this one). They are forked, with one thread each.
    start: global batches consumed before; `position` of the run that is taken up again.
    max_damaged_share: of the distinct clips of all sources, those that may be unusable.

    A damaged clip is replaced by the next intact one in its source's order, warned of once and listed in
    `damaged`; above `max_damaged_share` a UserError names them all. Raises UserError also where a
    transform does, where the batch doesn't divide by the ranks, and where shared memory is too small.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        batch_size: int,
        seed: int,
        transform: Transform,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        max_damaged_share: float = 0.01,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch size {batch_size} does not divide among {world_size} processes; expected a"
                f" positive multiple of {world_size}"
            )
        pairs = [(sources, 1.0)] if isinstance(sources, ShardIndex) else list(sources)
        order = SampleOrder([len(index) for index, _ in pairs], [w for _, w in pairs], seed)
        self._dataset = _Samples([index for index, _ in pairs], order, transform)
        self._positions = _RankPositions(batch_size, rank, world_size, start)
        self._num_workers = num_workers
        self._max_damaged_share = max_damaged_share
        self._damaged: dict[tuple[int, int], Damage] = {}
        self._batches: Iterator[_Batch] | None = None
        self._at_exit = functools.partial(_close_if_alive, weakref.ref(self))
        self.position = start

    @property
    def num_clips(self) -> int:
        """Distinct clips of all sources."""
        return sum(len(index) for index in self._dataset.indices)

    @property
    def damaged(self) -> list[Damage]:
        """The unusable clips met so far by this rank, in the order in which they were met."""
        return list(self._damaged.values())

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        for damage in batch.damaged:
            self._note(damage)
        if batch.mistake:
            raise UserError(batch.mistake)
        self.position += 1
        return batch.tensors

    def close(self) -> None:
        """Ends the workers; the loader can't be iterated after it."""
        atexit.unregister(self._at_exit)
        # The only way to end the workers at once, which PyTorch keeps private.
        end_workers = getattr(self._batches, "_shutdown_workers", None)
        if end_workers is not None:
            end_workers()
        self._batches = iter(())

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> Iterator[_Batch]:
        if self._num_workers:
            self._check_shared_memory()
            # Workers must go before the interpreter does, or it may wait for them for ever.
            atexit.register(self._at_exit)
        batches = DataLoader(
            self._dataset,
            batch_sampler=self._positions,
            collate_fn=_stack,
            num_workers=self._num_workers,
            multiprocessing_context="fork" if self._num_workers else None,
            prefetch_factor=PREFETCHED_BATCHES if self._num_workers else None,
            worker_init_fn=_start_worker,
            timeout=WORKER_TIMEOUT_S if self._num_workers else 0,
        )
        # A worker inherits the mask, so that no signal reaches it before it has learnt to leave them alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return iter(batches)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _check_shared_memory(self) -> None:
        """Batches travel through /dev/shm, where a worker that finds no room dies of a bus error."""
        if not SHARED_MEMORY.is_dir():
            return
        positions = next(iter(self._positions))
        sample = self._dataset[positions[0]]
        size = sum(tensor.nbytes for tensor in sample.tensors.values())
        # One more batch than is prefetched is being used by the training step.
        needed = size * len(positions) * (self._num_workers * PREFETCHED_BATCHES + 1)
        free = shutil.disk_usage(SHARED_MEMORY).free
        if needed > free:
            raise UserError(
                f"{SHARED_MEMORY}: {self._num_workers} loader workers need {needed:,} bytes of shared"
                f" memory, {free:,} are free; use fewer workers or a smaller batch, or enlarge it"
                " (docker run --shm-size)"
            )

    def _note(self, damage: Damage) -> None:
        if (damage.source, damage.number) in self._damaged:
            return
        self._damaged[damage.source, damage.number] = damage
        logger.warning("%s; the next clip takes its place", damage.message)
        self.check_damage(self.damaged)

    def check_damage(self, damaged: Collection[Damage]) -> None:
        """Raises UserError, with all their names, where these clips are more than the allowed share."""
        if len(damaged) > self._max_damaged_share * self.num_clips:
            messages = sorted({entry.message for entry in damaged})
            listed = "\n  ".join(messages)
            raise UserError(
                f"{len(damaged)} of {self.num_clips} clips are damaged, more than the allowed"
                f" share of {self._max_damaged_share:.3g}; make the shards again or raise"
                f" task.max_damaged_share:\n  {listed}"
            )


@dataclass(frozen=True)
class _Sample:
    tensors: dict[str, Tensor]
    damaged: list[Damage]
    mistake: str


@dataclass(frozen=True)
class _Batch:
    tensors: dict[str, Tensor]
    damaged: list[Damage]
    mistake: str


class _Samples(Dataset[_Sample]):
    """The sample at each position. Errors are returned, since a worker can't raise them legibly."""

    def __init__(self, indices: list[ShardIndex], order: SampleOrder, transform: Transform) -> None:
        self.indices = indices
        self._order = order
        self._transform = transform

    def __getitem__(self, position: int) -> _Sample:
        damaged: list[Damage] = []
        mistake = ""
        for source, number in self._order.candidates(position):
            generator = self._order.generator(position)
            try:
                clip = open_clip(self.indices[source], number)
                tensors = self._transform(clip, generator)
                return _Sample(tensors | {POSITION: torch.tensor(position)}, damaged, "")
            except DamagedSample as error:
                damaged.append(Damage(source, number, str(error)))
            except UserError as error:
                mistake = str(error)
                break
        return _Sample({}, damaged, mistake or "no clip of the shards could be read")


class _RankPositions(Sampler[list[int]]):
    """The positions of this rank's part of every global batch, for ever."""

    def __init__(self, batch_size: int, rank: int, world_size: int, start: int) -> None:
        self._batch_size = batch_size
        self._share = batch_size // world_size
        self._rank = rank
        self._start = start

    def __iter__(self) -> Iterator[list[int]]:
        first = self._start * self._batch_size + self._rank * self._share
        while True:
            yield list(range(first, first + self._share))
            first += self._batch_size


def _close_if_alive(reference: weakref.ref[ClipLoader]) -> None:
    loader = reference()
    if loader is not None:
        loader.close()


def _stack(samples: list[_Sample]) -> _Batch:
    damaged = [damage for sample in samples for damage in sample.damaged]
    mistake = next((sample.mistake for sample in samples if sample.mistake), "")
    if mistake:
        return _Batch({}, damaged, mistake)
    tensors = {}
    for name in samples[0].tensors:
        parts = [sample.tensors[name] for sample in samples]
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1:
            return _Batch({}, damaged, f"clips of one batch give {name!r} of shapes {shapes}")
        tensors[name] = torch.stack(parts)
    return _Batch(tensors, damaged, "")


def _start_worker(worker: int) -> None:
    """Leaves signals to the parent: a worker that dies of Ctrl-C would spoil the parent's clean end.

    The first SIGTERM may be meant for the whole process group, which the parent answers; a second one
    is meant for this worker.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
