"""Whether the loader keeps up with a training step."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from data.loader import ClipLoader
from eval.benchmarks.stand_in import engine_of, stand_in, torch_threads
from eval.benchmarks.train_step import measure_step


def benchmark_loader(recipe: Path, threads: int, batches: int = 8) -> dict[str, Any]:
    """Samples a second that the loader gives, for 0, 1 and 2 workers, beside what a step consumes."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, torch_threads(threads):
        made = stand_in(recipe, Path(folder), threads)
        config = made.load()
        task = config.task.create(config.seed)
        with engine_of(task, config) as engine:
            needed = measure_step(task, engine, config, steps=3)["samples_per_second"]
        rows = []
        for workers in (0, 1, 2):
            config = made.load(f"task.num_workers={workers}")
            loader = config.task.create(config.seed).loader(rank=0, world_size=1, start=0)
            try:
                rate = _loading_rate(loader, batches, config.task.batch_size)
            finally:
                loader.close()
            rows.append(
                {
                    "workers": workers,
                    "samples_per_second": round(rate, 1),
                    "times_needed": round(rate / needed, 1),
                }
            )
    return {
        "benchmark": "loader",
        "recipe": str(recipe),
        "rows": rows,
        "step_consumes_samples_per_second": needed,
    }


def _loading_rate(loader: ClipLoader, batches: int, batch_size: int) -> float:
    waiting = iter(loader)
    next(waiting)  # starting the workers
    started = time.perf_counter()
    for _ in range(batches):
        next(waiting)
    return batches * batch_size / (time.perf_counter() - started)
