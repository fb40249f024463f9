"""Toy runs for the training tests, in this process or in child processes that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # children import toy_task by name

import toy_task  # noqa: E402

import train.run  # noqa: E402
from configs.loader import load_config  # noqa: E402

RECIPE = """
name: toy
task: {kind: toy}
schedule: {warmup_steps: 5, floor: 0.1}
optimizer: {lr: 1.0e-2}
loop: {steps: 24, accumulate: 2, ema_decay: 0.9, log_every: 4, validate_every: 10, save_every: 6}
"""

PRELOADED = [
    "toy_task", "train.loop", "train.deepspeed_engine", "torch.utils.tensorboard", "torch._dynamo",
    "torch._inductor.compile_fx", "deepspeed.runtime.zero.muon.original_muon",
]  # fmt: skip
"""What a child would otherwise import itself, which takes nearly all of its time."""


class ToyRun:
    """A run folder of the toy task, and ways to start it."""

    command = staticmethod(toy_task.main)

    def __init__(self, root: Path, name: str, recipe: str = RECIPE) -> None:
        self.root, self.name = root, name
        self.folder = root / name
        self.recipe = root / f"{name}.yaml"
        self.recipe.write_text(recipe)
        self.log = root / f"{name}.log"
        self.metrics = self.folder / "metrics.jsonl"

    def arguments(self, *overrides: str) -> list[str]:
        return [str(self.recipe), f"name={self.name}", f"runs_root={self.root}", *overrides]

    def config(self, *overrides: str) -> toy_task.ToyRecipe:
        recipe, *rest = self.arguments(*overrides)
        return load_config(recipe, rest, toy_task.ToyRecipe)

    def start(self, *overrides: str) -> int:
        """Runs here to its end; returns the exit code. Errors are raised."""
        return train.run.run(self.config(*overrides))

    def spawn(self, *overrides: str, variables: dict[str, str] | None = None) -> BaseProcess:
        """Starts a child process from a server that has everything imported."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(
            target=toy_task.run_as_process,
            args=(self.command, self.arguments(*overrides), str(self.log), variables or {}),
        )
        with pytest.MonkeyPatch.context() as patch:
            # The server starts with the first child, and finds what it preloads by this alone.
            patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
            process.start()
        return process

    def spawn_ranks(
        self, count: int, *overrides: str, hosts: Sequence[dict[str, str]] = ()
    ) -> list[BaseProcess]:
        """Starts `count` processes that meet, as those of torchrun do.

        hosts: further variables of each process.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [
            self.spawn(
                *overrides,
                variables={
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    **(hosts[rank] if hosts else {}),
                },
            )
            for rank in range(count)
        ]

    def start_ranks(self, count: int, *overrides: str) -> list[int | None]:
        """Runs `count` processes together to their end; returns their exit codes."""
        return self.join(self.spawn_ranks(count, *overrides))

    def join(self, processes: list[BaseProcess]) -> list[int | None]:
        """The exit codes of processes that end by themselves; what doesn't is killed."""
        for process in processes:
            process.join(180)
            if process.is_alive():
                process.kill()
        return [process.exitcode for process in processes]

    def records(self, kind: str = "train") -> list[dict[str, Any]]:
        """Lines of metrics.jsonl without what depends on the clock."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").open()]
        timed = {"seconds", "samples_per_second"}
        return [
            {k: v for k, v in line.items() if k not in timed}
            for line in lines
            if line["kind"] == kind
        ]

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "weights" / "model.safetensors")

    def checkpoint(self, step: int) -> dict[str, torch.Tensor]:
        folder = self.folder / "checkpoints" / f"step_{step:08d}"
        files = sorted(folder.glob("*.safetensors"))
        kinds = {file: file.name.partition("-")[0] for file in files}
        return {f"{kinds[f]}:{k}": v for f in files for k, v in load_file(f).items()}

    def checkpoint_names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir())


class TaskRun(ToyRun):
    """The same for a recipe of one of the tasks that we offer."""

    command = staticmethod(train.run.main)
