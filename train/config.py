"""The whole of a training recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from configs.loader import Config
from train.engine import EngineConfig
from train.guard import GuardConfig
from train.optimizer import OptimizerConfig
from train.schedule import ScheduleConfig


class LoopConfig(Config):
    """How long to train, and how often to look, save and tell. Counts are in optimizer steps."""

    may_change: ClassVar = frozenset(
        {"steps", "log_every", "validate_every", "save_every", "keep_checkpoints", "max_minutes"}
        | {"hang_minutes", "long_hang_minutes"}
    )

    steps: int = Field(ge=0, description="0: only validate and export what the task builds")
    accumulate: int = Field(1, gt=0, description="batches whose gradients make one step")
    clip_norm: float | None = Field(1.0, gt=0, description="largest global gradient norm")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="validate and export an average of the weights; null: none"
    )
    log_every: int = Field(10, gt=0)
    validate_every: int = Field(500, gt=0)
    save_every: int = Field(500, gt=0)
    keep_checkpoints: int = Field(3, gt=0, description="the newest ones that stay")
    max_minutes: float | None = Field(None, gt=0, description="then stop with a checkpoint")
    hang_minutes: float | None = Field(
        30.0, gt=0, description="end the run where no rank gets on for so long; null: never"
    )
    long_hang_minutes: float = Field(
        120.0,
        gt=0,
        description="the same at the start, in validation and in export, which may take longer; at least"
        " hang_minutes",
    )


class RunConfig(Config):
    """One training run.

    A class lists as `may_change` the keys that a resumed run may set anew: those that do not alter what
    is learned, and `loop.steps`, with which the schedule stretches.
    """

    may_change: ClassVar = frozenset({"name", "runs_root", "resume"})

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", description="folder below runs_root"
    )
    task: Any = Field(
        description="a `train.task.TaskConfig`; `train.tasks.registry` has those we offer"
    )
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loop: LoopConfig
    guard: GuardConfig = GuardConfig()
    engine: EngineConfig = EngineConfig()
    runs_root: Path = Path("runs")
    resume: Literal["never", "auto"] = Field(
        "never", description="auto: continue the run if its folder exists"
    )
