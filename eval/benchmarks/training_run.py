"""What a run of the real loop loses beside its steps' work: waiting for data, and writing checkpoints."""

from __future__ import annotations

import io
import json
import statistics
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from eval.benchmarks.stand_in import StandIn
from train.engine import Engine
from train.hang_watch import HangWatch
from train.loop import TrainLoop
from train.run_folder import RunFolder
from train.stopping import StopRequest
from train.task import Task

WARM_UP_STEPS = 3
"""The first steps compile, and take batches that were loaded meanwhile."""


def measure_run(
    task: Task, engine: Engine, made: StandIn, steps: int = 8, saves: int = 3
) -> dict[str, Any]:
    """Trains `steps` steps beyond the warm-up, validates, exports, and saves `saves` times more.

    Each save removes the checkpoint before it, as in a long run. Training stands still meanwhile.
    """
    config = made.load("name=loss", f"loop.steps={WARM_UP_STEPS + steps}")
    folder = RunFolder(config)
    seconds = []
    with (
        redirect_stdout(io.StringIO()),
        folder.held_by(engine.ranks),
        HangWatch(engine.ranks, None) as watch,
    ):
        loop = TrainLoop(task, config, engine, folder, StopRequest(), watch)
        try:
            loop.run()
            for _ in range(saves):
                loop.step += 1
                started = time.perf_counter()
                loop.save()
                seconds.append(time.perf_counter() - started)
        finally:
            loop.reporter.close()
    return summarise(
        step_seconds(folder.metrics),
        statistics.median(seconds),
        sum(file.stat().st_size for file in folder.checkpoints.glob("*/*")),
        made.save_every,
    )


def summarise(
    steps: list[dict[str, float]], save_seconds: float, save_bytes: int, save_every: int
) -> dict[str, Any]:
    """The shares, from the steps' seconds by part, and a save's seconds, bytes and interval in steps."""
    whole = sum(step["step"] for step in steps)
    interval = save_every * statistics.median(step["step"] for step in steps)
    return {
        "waiting_for_data": round(sum(step["data"] for step in steps) / whole, 4),
        "save_seconds": round(save_seconds, 3),
        "save_megabytes": round(save_bytes / 1e6, 1),
        "save_every": save_every,
        "saving": round(save_seconds / (save_seconds + interval), 5),
    }


def step_seconds(metrics: Path) -> list[dict[str, float]]:
    """Seconds by part of each step past the warm-up, from a metrics.jsonl with a record a step."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    return [record["seconds"] for record in steps if record["step"] > WARM_UP_STEPS]
