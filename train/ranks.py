"""The processes of a run, and the few things they tell each other outside the engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from configs.errors import UserError

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """One process's place among `world_size`; every method is a collective call of all of them.

    device: where float values travel (the backend decides).
    store: where the processes met, a `torch.distributed.Store`; None for a lone one.
    restarts: how often the launcher has started the processes again by itself.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU
    store: Any = None
    restarts: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def maximum(self, values: Sequence[float]) -> list[float]:
        """The largest over the ranks, value by value."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over the ranks, value by value, in float64."""
        return [total / self.world_size for total in self._reduce(values, dist.ReduceOp.SUM)]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        return self.gather(value if self.is_first else None)[0]

    def on_first(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, on every rank; a UserError there is raised on every rank."""
        result: T | None = None
        problem: str | None = None
        if self.is_first:
            try:
                result = action()
            except UserError as error:
                problem = str(error)
        problem, result = self.from_first((problem, result))
        if problem is not None:
            raise UserError(problem)
        return cast(T, result)

    def _reduce(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()


@contextmanager
def joined_ranks(device: str, longest_wait: timedelta | None = None) -> Iterator[Ranks]:
    """This process's ranks, from the variables that torchrun sets; a lone process needs none.

    device: "auto", "cpu" or "cuda". longest_wait: for another rank, in one call; None is the backend's own.
    Raises UserError where CUDA is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "engine.device=cuda, but PyTorch finds no CUDA device; use engine.device=cpu"
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device("cpu")
    if on_gpu:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        place = torch.device("cuda", _own_gpu(local_rank, torch.cuda.device_count()))
        torch.cuda.set_device(place)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    try:
        if world_size > 1:
            store, rank, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
            # torchrun may keep the store from start to start, with the addresses of processes that are gone.
            store = dist.PrefixStore(f"start_{restarts}", store)  # type: ignore[attr-defined]
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=world_size,
                timeout=longest_wait,
            )
            yield Ranks(rank, world_size, place, store, restarts)
        else:
            yield Ranks(device=place, restarts=restarts)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_gpu(local_rank: int, num_visible: int) -> int:
    """Index of a process's GPU: its local rank, or the only one where a scheduler shows each its own."""
    if num_visible == 1:
        return 0
    if local_rank >= num_visible:
        raise UserError(
            f"process {local_rank} of this node has no GPU: {num_visible} are visible; start at most"
            " as many processes a node as it has GPUs"
        )
    return local_rank
