"""Training runs in processes of their own, as a user starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from configs.errors import EXIT_USER, UserError

ROOT = Path(__file__).resolve().parents[2]
SECONDS_BETWEEN_LOOKS = 0.2
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER", "TORCHELASTIC", "SLURM")


def train_at_once(recipes: Sequence[Path], ranks: int) -> None:
    """Trains all recipes at the same time, each in `ranks` processes, to their ends.

    What a process prints goes to a file beside its recipe. Where one fails, the others are killed; raises UserError
    where that was a mistake of the user, with its message.
    """
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for recipe in recipes:
            port = _free_port()
            for rank in range(ranks):
                log = recipe.with_name(f"{recipe.stem}_{rank}.log")
                running.append((_start(recipe, log, _variables(rank, ranks, port)), log))
        while any(process.poll() is None for process, _ in running):
            _check(running)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        _check(running)
    finally:
        for process, _ in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def _start(recipe: Path, log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "train.run", str(recipe)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=kept | {"PYTHONPATH": path} | variables,
        )


def _variables(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would tell a rank; nothing for a lone process."""
    if ranks == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _check(running: Sequence[tuple[subprocess.Popen[bytes], Path]]) -> None:
    for process, log in running:
        code = process.poll()
        if not code:
            continue
        lines = log.read_text(errors="replace").strip().splitlines()
        if code == EXIT_USER and lines:
            raise UserError(lines[-1].removeprefix("error: "))
        tail = "\n".join(lines[-20:])
        raise RuntimeError(f"a training run ended with exit code {code}:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
