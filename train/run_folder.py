"""The folder of a run: never overwritten by accident, never shared by two processes."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import torch
from pydantic import BaseModel

from configs.errors import UserError
from configs.loader import dump_config
from configs.yaml_tree import parse_yaml
from data.durable_files import disk_errors_explained, write_durably
from train.config import RunConfig
from train.ranks import Ranks

CONFIG, ENVIRONMENT, LOCK = "config.yaml", "environment.json", "run.lock"
PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "numba", "diffusers", "transformers", "safetensors", "deepspeed",
    "gsplat", "torchmetrics", "torch-fidelity", "lpips", "pycolmap",
)  # fmt: skip
MISSING = object()

_locks: list[TextIO] = []


def _let_go() -> None:
    """In a fork: a loader worker outlives a killed run by seconds, and must not keep its folder from the next one."""
    while _locks:
        _locks.pop().close()


os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """Where one run keeps all it writes."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.path = config.runs_root / config.name
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tensorboard"
        self.weights = self.path / "weights"
        self.metrics = self.path / "metrics.jsonl"

    def check(self) -> list[str]:
        """What a resumed run changes, as "key: old -> new"; nothing for a new one.

        Raises UserError where the folder exists without `resume=auto`, is not a run's, or holds a run
        whose recipe differs in a key that alters what is learned.
        """
        config_file = self.path / CONFIG
        names = {p.name for p in self.path.iterdir()} - {LOCK} if self.path.is_dir() else set()
        if not names and not self.path.is_file():
            return []
        if CONFIG not in names:
            raise UserError(
                f"{self.path} exists and is not a run folder (it has no {CONFIG}); choose another"
                " name=..."
            )
        if self.config.resume != "auto":
            raise UserError(
                f"{self.path} already holds a run; continue it with resume=auto, or start a new one"
                " with another name=..."
            )
        parsed = parse_yaml(config_file.read_text())
        if not isinstance(parsed.value, dict):
            raise UserError(
                f"{config_file} can't be read; restore it from a copy, or start a new run with"
                " another name=..."
            )
        saved, current = flatten(parsed.value), flatten(self.config.model_dump(mode="json"))
        changes = {
            key: f"{key}: {_shown(saved, key)} -> {_shown(current, key)}"
            for key in [*current, *(key for key in saved if key not in current)]
            if saved.get(key, MISSING) != current.get(key, MISSING)
        }
        refused = [text for key, text in changes.items() if not may_change(self.config, key)]
        if refused:
            raise UserError(
                f"{self.path} was started with another recipe, and these keys alter what is learned:"
                f" {'; '.join(refused)}. Set them back, or start a new run with another name=..."
            )
        return [text for key, text in changes.items() if key not in type(self.config).may_change]

    @contextmanager
    def held_by(self, ranks: Ranks) -> Iterator[None]:
        """Makes or continues the folder, and keeps it from other runs while entered.

        Raises UserError on every rank, as `check` does, and where another run holds the folder.
        """
        with ExitStack() as held:
            ranks.on_first(lambda: held.enter_context(self._opened()))
            yield

    @contextmanager
    def _opened(self) -> Iterator[None]:
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK).open("a+")
        except OSError as error:
            raise UserError(
                f"{self.path} can't be written ({error.strerror}); choose another runs_root=..."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise UserError(
                    f"{self.path} is in use by another training process ({lock.read().strip()});"
                    " stop that one first, or start another name=..."
                ) from error
            holder = f"process {os.getpid()} on {socket.gethostname()}\n"
            with disk_errors_explained(self.path / LOCK, len(holder)):
                lock.truncate(0)
                lock.write(holder)
                lock.flush()
            dump_config(self.config, self.path / CONFIG)
            self._note_environment()
            _locks.append(lock)
            try:
                yield
            finally:
                _locks.remove(lock)

    def _note_environment(self) -> None:
        """Adds this start to the list in environment.json."""
        path = self.path / ENVIRONMENT
        try:
            starts = json.loads(path.read_text())
        except (OSError, ValueError):
            starts = []
        write_durably(path, json.dumps([*starts, describe_environment()], indent=1).encode())


def describe_environment() -> dict[str, Any]:
    """Versions, code, machine and command of this process."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(),
        "machine": {
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the code, and whether files differ from it; None outside of a clone."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments],
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
                timeout=20,
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed_files": len(changes.splitlines())}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a recipe by dotted key; lists count as leaves."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "(not set)"


def may_change(config: BaseModel, key: str) -> bool:
    """Whether a resumed run may set a dotted key anew: a class on the way lists it, or what it lies in."""
    owner: Any = config
    for name in key.split("."):
        if name in getattr(type(owner), "may_change", ()):
            return True
        owner = getattr(owner, name, None)
    return False
