"""How fast recipes train here, and where their time goes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.loader import load_config
from eval.benchmarks.scaling import APART, TOGETHER, weak_scaling
from eval.benchmarks.second_process import second_process
from eval.benchmarks.stand_in import engine_of, stand_in, torch_threads
from eval.benchmarks.train_step import measure_step
from eval.benchmarks.training_run import measure_run
from eval.machine import load_average
from train.tasks.registry import Recipe

AIMS = "waiting for data under 0.05, saving under 0.02, two together 1.7 on two idle cores"
BUSY = 0.5
"""Load from which weak scaling is not to be trusted: others take turns with what is measured."""


def benchmark_train(recipes: Sequence[Path], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """For each recipe its step in parts and its weak scaling, if `rounds` is not 0; then what each comes to.

    Raises UserError where a recipe is unfit.
    """
    rows = []
    load = load_average()
    for recipe in recipes:  # a mistake in the last one shows before the first is measured
        load_config(recipe, [], Recipe)
    for recipe in recipes:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, torch_threads(threads):
            made = stand_in(recipe, Path(folder), threads)
            config = made.load()
            task = config.task.create(config.seed)
            with engine_of(task, config) as engine:
                step = measure_step(task, engine, config)
                run = measure_run(task, engine, made)
            del engine, task
            given: dict[str, Any] = {
                "recipe": str(recipe),
                "threads": threads,
                "batch_size": config.task.batch_size,
                "load_before": load,
            }
            if made.notes:
                given["differs"] = "; ".join(made.notes)
            yield {"benchmark": "training step", **given, **step, **run}
            row = {"recipe": recipe.stem}
            row |= {name: step[name] for name in ("model_share_of_peak", "step_share_of_peak")}
            row |= {name: run[name] for name in ("waiting_for_data", "save_seconds", "saving")}
            if rounds:
                scaling = weak_scaling(made, Path(folder), rounds)
                yield {"benchmark": "weak scaling", **given, **scaling}
                lines = {line["setup"]: line for line in scaling["rows"]}
                together, apart = lines[TOGETHER.name], lines[APART.name]
                row["two_together"] = together["times_one"]
                row["over_one_deepspeed"] = together["times_one_of_its_engine"]
                row["two_apart"] = apart["times_one"]
            rows.append(row)
    summary: dict[str, Any] = {"benchmark": "training", "rows": rows, "aims": AIMS}
    if load > BUSY:
        summary["caution"] = _caution(load)
    yield summary
    if rounds:
        found = [{"work": name, "times_one": times} for name, times in second_process().items()]
        yield {"benchmark": "two processes of other work", "rows": found}


def _caution(load: float) -> str:
    return (
        f"{load:.1f} processes wanted a core before this began: the shares stand, seconds are too long,"
        " and weak scaling means nothing here"
    )
