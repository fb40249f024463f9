"""Weak scaling: two processes that train together on twice the batch, beside one process alone.

Two processes that train apart, each its own run, show what the machine gives a second process at all: its cores
may share caches, memory and arithmetic units. What two that train together lose against these is ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.loader import dump_config
from eval.benchmarks.child_runs import train_at_once
from eval.benchmarks.stand_in import StandIn
from eval.benchmarks.training_run import WARM_UP_STEPS, step_seconds
from train.run_folder import RunFolder

STEPS = 8
"""Steps of each run beyond the warm-up."""


@dataclass(frozen=True)
class Setup:
    """How processes train: `runs` runs at once, each of `ranks` processes, by an engine."""

    name: str
    runs: int
    ranks: int
    engine: str


ALONE = Setup("1 process, plain engine", 1, 1, "plain")
APART = Setup("2 processes that train apart, plain engine", 2, 1, "plain")
ALONE_DEEPSPEED = Setup("1 process, DeepSpeed", 1, 1, "deepspeed")
TOGETHER = Setup("2 processes that train together, DeepSpeed", 1, 2, "deepspeed")
SETUPS = (ALONE, APART, ALONE_DEEPSPEED, TOGETHER)
ONE = {"plain": ALONE, "deepspeed": ALONE_DEEPSPEED}
"""By engine."""


@dataclass(frozen=True)
class Measured:
    """samples_per_second: of all runs together. waiting: share of the steps spent waiting for data."""

    samples_per_second: float
    waiting: float


def weak_scaling(made: StandIn, folder: Path, rounds: int) -> dict[str, Any]:
    """Samples a second of each of `SETUPS`, and the ratios to one process in the same round; medians.

    One process by itself trains with the plain engine, several with DeepSpeed's. Held to one of the same engine, two
    show what is lost between them; held to a plain one, what the second process brings.

    The rounds go through the setups forth and back, so that a machine that slows down favours none.
    """
    found: list[dict[Setup, Measured]] = []
    for number in range(rounds):
        order = SETUPS if number % 2 == 0 else SETUPS[::-1]
        found.append({setup: _measure(setup, made, folder, number) for setup in order})
    return {"rounds": rounds, "steps": STEPS, **compare(found)}


def compare(rounds: Sequence[Mapping[Setup, Measured]]) -> dict[str, Any]:
    """The table of some rounds; ratios are taken within a round."""

    def ratio(of: Setup, to: Setup) -> float:
        return statistics.median(
            figures[of].samples_per_second / figures[to].samples_per_second for figures in rounds
        )

    rows = [
        {
            "setup": setup.name,
            "samples_per_second": round(
                statistics.median(figures[setup].samples_per_second for figures in rounds), 2
            ),
            "times_one": round(ratio(setup, ALONE), 2),
            "times_one_of_its_engine": round(ratio(setup, ONE[setup.engine]), 2),
            "waiting_for_data": round(
                statistics.median(figures[setup].waiting for figures in rounds), 4
            ),
        }
        for setup in SETUPS
    ]
    return {"rows": rows, "together_over_apart": round(ratio(TOGETHER, APART), 2)}


def common_rate(times: Sequence[Sequence[float]]) -> float:
    """Steps a second of several runs together, while all of them trained.

    times: for each run, when its steps ended [s]; the first one starts the clock. Steps that reach across the
    ends of the common window count with the part of their time that lies within.
    """
    start, end = max(run[0] for run in times), min(run[-1] for run in times)
    if start >= end:
        raise UserError(
            "the processes of weak scaling never trained at the same time: the machine is too busy"
            " to be measured; run it again later, or with --rounds 0"
        )
    steps = 0.0
    for run in times:
        first, last = np.interp([start, end], run, np.arange(len(run)))
        steps += float(last - first)
    return steps / (end - start)


def _measure(setup: Setup, made: StandIn, folder: Path, number: int) -> Measured:
    batch_size = made.load().task.batch_size * setup.ranks
    configs = [
        made.load(
            f"name=scaling_{number}_{SETUPS.index(setup)}_{run}",
            f"engine.kind={setup.engine}",
            f"loop.steps={WARM_UP_STEPS + STEPS}",
            f"task.batch_size={batch_size}",
        )
        for run in range(setup.runs)
    ]
    recipes = [folder / f"{config.name}.yaml" for config in configs]
    for config, recipe in zip(configs, recipes, strict=True):
        dump_config(config, recipe)
    train_at_once(recipes, setup.ranks)
    folders = [RunFolder(config) for config in configs]
    seconds = [step for run in folders for step in step_seconds(run.metrics)]
    return Measured(
        batch_size * common_rate([step_ends(run.tensorboard) for run in folders]),
        sum(step["data"] for step in seconds) / sum(step["step"] for step in seconds),
    )


def step_ends(tensorboard: Path) -> list[float]:
    """When the last step of the warm-up ended, and each after it [s], from a TensorBoard log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tensorboard)).Reload().Scalars("run/lr")
    return [event.wall_time for event in events if event.step >= WARM_UP_STEPS]
