"""The tasks that a recipe can name as `task.kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from train.tasks.autoencoder import AutoencoderConfig
from train.tasks.reconstruction import ReconstructionConfig

AnyTaskConfig = Annotated[ReconstructionConfig | AutoencoderConfig, Field(discriminator="kind")]
