"""A small regression that stands in for a model in the training tests, and a command that trains it.

`python toy_task.py RECIPE key=value ...` behaves as `python -m train.run` does, with this task.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from configs.errors import UserError, run_command
from configs.loader import Config, load_config
from data.loader import POSITION
from train.config import RunConfig
from train.randomness import SampleDraws
from train.task import Validation

FEATURES = 6


class ToyValidation(Config):
    num_samples: int = 4
    seconds: float = 0.0


class ToyFault(Config):
    """What goes wrong on one rank at some batches.

    spike: the loss is `factor` times what it should be (which `unit_losses` makes 1). hang: nothing comes any
    more. freeze: not even threads go on. die: SIGKILL, unless `marker` exists, which is made. memory: more is asked
    for than there is. full: the disk of `marker` fills up but for `left` bytes.
    """

    kind: Literal["none", "nan", "spike", "hang", "freeze", "die", "memory", "full"] = "none"
    rank: int = 0
    batches: tuple[int, ...] = ()
    factor: float = 12.0
    marker: Path | None = None
    left: int = 0

    def strike(self, batch: dict[str, Tensor]) -> None:
        if self.kind == "nan":
            batch["x"].fill_(torch.nan)
        elif self.kind == "spike":
            batch["weight"].fill_(self.factor)
        elif self.kind == "hang":
            time.sleep(1e6)
        elif self.kind == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.kind == "die" and self.marker is not None and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "memory":
            torch.empty(2**48, dtype=torch.uint8)
        elif self.kind == "full" and self.marker is not None:
            free = shutil.disk_usage(self.marker.parent).free
            self.marker.write_bytes(bytes(free - self.left))


class ToyConfig(Config):
    may_change: ClassVar = frozenset(
        {"validation", "fault", "trace", "signal_at_batch", "damaged", "max_damaged"}
    )

    kind: Literal["toy"] = "toy"
    batch_size: int = 8
    dropout: float = 0.1
    noise: float = 0.01
    seconds_per_batch: float = 0.0
    nan_batches: tuple[int, ...] = ()
    spike_batches: tuple[int, ...] = ()
    signal_at_batch: int | None = None
    fault: ToyFault = ToyFault()
    damaged: tuple[tuple[int, ...], ...] = ()
    """Samples that each rank can't read."""
    unit_losses: bool = False
    """The loss of every batch without a fault is 1, so that what is a spike is known."""
    max_damaged: int = 0
    trace: Path | None = None
    """A file to which each rank adds the batches that it takes, and the samples of each."""
    validation: ToyValidation = ToyValidation()

    def create(self, seed: int) -> ToyTask:
        return ToyTask(self, seed)


class ToyRecipe(RunConfig):
    task: ToyConfig


@dataclass(frozen=True)
class Prediction:
    """Models may return their own types."""

    values: Tensor


class ToyModel(nn.Module):
    """With what is hard for an engine: a parameter of its own, a buffer, a frozen parameter, dropout."""

    target_scale: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 1)
        )
        self.shift = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("target_scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Prediction:
        return Prediction(self.layers(x)[:, 0] * self.target_scale + self.shift * self.frozen[0])


class ToyTask:
    """Learns y = sin(sum of x) from batches that are a function of (seed, position) alone."""

    def __init__(self, config: ToyConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def build(self) -> ToyModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return ToyModel(self.config.dropout)

    def loader(self, *, rank: int, world_size: int, start: int) -> ToyBatches:
        return ToyBatches(self.config, self.seed, rank, world_size, start)

    def losses(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        draws = SampleDraws(generator, batch, self.config.batch_size)
        noise = self.config.noise * draws.normal("noise", ())
        fit = (model(batch["x"]).values - batch["y"] - noise.to(batch["y"])).square().mean()
        scale = fit.detach() if self.config.unit_losses else 1.0
        return {"loss": fit / scale * batch["weight"].mean(), "fit": fit}

    def validate(self, model: nn.Module) -> Validation:
        time.sleep(self.config.validation.seconds)
        device = model.target_scale.device
        batch = {name: value.to(device) for name, value in toy_batch(self.seed, -1, 64).items()}
        error = (model(batch["x"]).values - batch["y"]).square().mean()
        return Validation({"mse": float(error)}, {"flat": torch.full((3, 4, 5), 0.5)})

    def export(self, model: nn.Module, folder: Path) -> None:
        save_file(model.state_dict(), folder / "model.safetensors")


class ToyBatches:
    def __init__(
        self, config: ToyConfig, seed: int, rank: int, world_size: int, start: int
    ) -> None:
        self.config, self.seed, self.position = config, seed, start
        self.rank, self.world_size = rank, world_size
        self.damaged = list(config.damaged[rank]) if config.damaged else []

    def check_damage(self, damaged: Collection[int]) -> None:
        if len(damaged) > self.config.max_damaged:
            raise UserError(f"{len(damaged)} samples are damaged: {sorted(damaged)}")

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            batch = toy_batch(self.seed, self.position, self.config.batch_size)
            if self.position in self.config.nan_batches:
                batch["x"][0, 0] = torch.nan
            if self.position in self.config.spike_batches:
                batch["weight"].fill_(1e4)
            if self.position == self.config.signal_at_batch:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(self.config.seconds_per_batch)
            batch = {name: value[self.rank :: self.world_size] for name, value in batch.items()}
            fault = self.config.fault
            if self.rank == fault.rank and self.position in fault.batches:
                fault.strike(batch)
            if self.config.trace is not None:
                samples = range(self.config.batch_size)[self.rank :: self.world_size]
                with self.config.trace.open("a") as file:
                    file.write(json.dumps([self.position, list(samples)]) + "\n")
            self.position += 1
            yield batch


def toy_batch(seed: int, position: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + position + 1)
    x = torch.randn(size, FEATURES, generator=generator)
    places = position * size + torch.arange(size)
    return {"x": x, "y": torch.sin(x.sum(dim=1)), "weight": torch.ones(size), POSITION: places}


def main(argv: list[str] | None = None) -> int:
    from train.run import run

    recipe, *overrides = sys.argv[1:] if argv is None else argv
    return run(load_config(recipe, overrides, ToyRecipe))


def join_namespaces(process: int) -> None:
    """Moves this process, which has to be single-threaded, to where another sees users, networks and mounts."""
    libc = ctypes.CDLL(None, use_errno=True)
    theirs, ours = Path(f"/proc/{process}/ns"), Path("/proc/self/ns")
    handles = [
        os.open(theirs / name, os.O_RDONLY)
        for name in ("user", "net", "mnt")
        if (theirs / name).readlink() != (ours / name).readlink()
    ]
    for handle in handles:
        if libc.setns(handle, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)


def run_as_process(
    command: Callable[[list[str] | None], int], argv: list[str], log: str, variables: dict[str, str]
) -> None:
    """The body of a child process: a command, with its output in a file."""
    os.environ.update(variables)
    if "NAMESPACES_OF_PROCESS" in variables:
        join_namespaces(int(variables["NAMESPACES_OF_PROCESS"]))
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    run_command(command, argv)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_command(main)
