"""What a run writes down as it goes: metrics.jsonl, TensorBoard, sample pictures."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image

from data.durable_files import disk_errors_explained, write_durably
from train.task import Validation

RESUME = " and continue with resume=auto"
SCALAR_BYTES = 64
"""About what one figure takes in a TensorBoard file."""


@dataclass(frozen=True)
class TrainRecord:
    """Means over the steps since the record before.

    losses: the task's parts, over the steps that were applied.
    grad_norm: before clipping. skipped: steps left out since the run began.
    damaged: samples that could not be read since this start, over all ranks.
    seconds: of one step ("step"), and its parts ("data", "loss", "backward", "optimizer").
    """

    step: int
    losses: dict[str, float]
    lr: float
    grad_norm: float | None
    skipped: int
    damaged: int
    samples_per_second: float
    seconds: dict[str, float]


@runtime_checkable
class Sink(Protocol):
    """Takes what happens in a run."""

    def train(self, record: TrainRecord) -> None: ...

    def validation(self, step: int, result: Validation) -> None: ...

    def flush(self) -> None:
        """Called before a checkpoint is written: what was taken so far must not get lost."""
        ...

    def close(self) -> None: ...


@dataclass
class Window:
    """Sums over the steps since the last record; part of a checkpoint, so that means survive a stop."""

    num_steps: int = 0
    num_applied: int = 0
    num_samples: int = 0
    grad_norm: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        losses: Mapping[str, float],
        grad_norm: float,
        applied: bool,
        num_samples: int,
        seconds: Mapping[str, float],
    ) -> None:
        """Takes one step; its losses and norm count only where the weights moved."""
        self.num_steps += 1
        self.num_samples += num_samples
        self.seconds = _sum(self.seconds, seconds)
        if applied:
            self.num_applied += 1
            self.grad_norm += grad_norm
            self.losses = _sum(self.losses, losses)

    def record(self, step: int, lr: float, skipped: int, damaged: int) -> TrainRecord:
        applied = max(1, self.num_applied)
        return TrainRecord(
            step=step,
            losses={name: value / applied for name, value in self.losses.items()},
            lr=lr,
            grad_norm=self.grad_norm / applied if self.num_applied else None,
            skipped=skipped,
            damaged=damaged,
            samples_per_second=self.num_samples / max(self.seconds["step"], 1e-9),
            seconds={name: value / self.num_steps for name, value in self.seconds.items()},
        )

    def state(self) -> dict[str, Any]:
        return asdict(self)


class MetricsFile:
    """metrics.jsonl: one line a record, `kind` "train" or "validation".

    Opened, it first drops the lines past `last_step` and any broken one, so that a resumed run leaves no
    step twice. Values that are not finite are written as null.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_bytes().splitlines() if _is_until(line, last_step)]
            write_durably(path, b"".join(line + b"\n" for line in kept))
        self.path = path
        self.file = path.open("ab", buffering=0)

    def train(self, record: TrainRecord) -> None:
        self._write({"kind": "train", **asdict(record)})

    def validation(self, step: int, result: Validation) -> None:
        self._write({"kind": "validation", "step": step, "scalars": result.scalars})

    def flush(self) -> None:
        with disk_errors_explained(self.path, 0, RESUME):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(_finite(record), allow_nan=False).encode() + b"\n"
        with disk_errors_explained(self.path, len(line), RESUME):
            self.file.write(line)


class TensorBoardLog:
    """Scalars and pictures for TensorBoard; what older files say of steps past `last_step` is hidden."""

    def __init__(self, folder: Path, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.num_bytes = 0
        self.writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def train(self, record: TrainRecord) -> None:
        scalars = {f"train/{name}": value for name, value in record.losses.items()}
        scalars |= {f"seconds/{name}": value for name, value in record.seconds.items()}
        scalars |= {
            "run/lr": record.lr,
            "run/samples_per_second": record.samples_per_second,
            "run/skipped": record.skipped,
            "run/damaged": record.damaged,
        }
        if record.grad_norm is not None:
            scalars["run/grad_norm"] = record.grad_norm
        self.num_bytes += SCALAR_BYTES * len(scalars)
        with self._explained():
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, record.step)

    def validation(self, step: int, result: Validation) -> None:
        self.num_bytes += SCALAR_BYTES * len(result.scalars)
        self.num_bytes += sum(image.numel() for image in result.images.values())
        with self._explained():
            for name, value in result.scalars.items():
                self.writer.add_scalar(f"validation/{name}", value, step)
            for name, image in result.images.items():
                self.writer.add_image(name, image.detach().float().cpu().clamp(0, 1), step)

    def flush(self) -> None:
        with self._explained():
            self.writer.flush()
        self.num_bytes = 0

    def close(self) -> None:
        with self._explained():
            self.writer.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Looks for space itself: the thread that writes for TensorBoard would fail with a traceback, and later."""
        with disk_errors_explained(self.folder, self.num_bytes, RESUME):
            if shutil.disk_usage(self.folder).free < self.num_bytes:
                raise OSError(errno.ENOSPC, "no space left for TensorBoard")
            yield


class SamplePictures:
    """samples/step_N_NAME.png for every picture of a validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def train(self, record: TrainRecord) -> None:
        pass

    def validation(self, step: int, result: Validation) -> None:
        for name, image in result.images.items():
            pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, "png")
            write_durably(self.folder / f"step_{step:08d}_{name}.png", content.getvalue())

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _sum(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    total: defaultdict[str, float] = defaultdict(float, left)
    for name, value in right.items():
        total[name] += value
    return dict(total)


def _finite(value: Any) -> Any:
    """A tree of values with None in the place of NaN and infinity, which JSON doesn't know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_until(line: bytes, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False
