"""The tasks that a recipe can name as `task.kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from train.config import RunConfig
from train.tasks.autoencoder import AutoencoderConfig
from train.tasks.reconstruction import ReconstructionConfig
from train.tasks.video import VideoConfig


class Recipe(RunConfig):
    """A training recipe, as written in configs/."""

    task: Annotated[
        ReconstructionConfig | AutoencoderConfig | VideoConfig, Field(discriminator="kind")
    ]
