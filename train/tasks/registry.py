"""The tasks that a recipe can name as `task.kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from train.config import RunConfig
from train.tasks.autoencoder import AutoencoderConfig
from train.tasks.reconstruction import ReconstructionConfig
from train.tasks.video import VideoConfig


class Recipe(RunConfig):
    """A training recipe, as written in configs/."""

    task: Annotated[
        ReconstructionConfig | AutoencoderConfig | VideoConfig, Field(discriminator="kind")
    ]

    @model_validator(mode="after")
    def _dtypes_meet(self) -> Recipe:
        task, precision = self.task, self.engine.precision
        if (
            isinstance(task, VideoConfig)
            and task.base_dtype != "float32"
            and task.branches is not None
            and precision == "fp32"
        ):
            raise ValueError(
                f"engine.precision=fp32 with task.base_dtype={task.base_dtype}: the branches are float32 and add to"
                " the base's; set engine.precision=bf16, or task.base_dtype=float32"
            )
        return self
