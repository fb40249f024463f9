"""The settings of a recipe that trade memory for work, whichever task it is of."""

from __future__ import annotations

from typing import Any

from models.perceptual import FRAMES_AT_ONCE
from train.tasks.autoencoder import AutoencoderConfig
from train.tasks.reconstruction import ReconstructionConfig
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig


def checkpointing(recipe: Recipe) -> bool | None:
    """Whether blocks are computed again in the backward pass; None where there is no such switch."""
    task = recipe.task
    if isinstance(task, VideoConfig):
        return task.gradient_checkpointing
    return task.model.gradient_checkpointing if isinstance(task, ReconstructionConfig) else None


def checkpointing_key(recipe: Recipe) -> str:
    """The key of that switch."""
    inside = ".model" if isinstance(recipe.task, ReconstructionConfig) else ""
    return f"task{inside}.gradient_checkpointing"


def perceptual_groups(recipe: Recipe) -> bool | None:
    """Whether the perceptual loss goes through its network in groups; None where there is none."""
    task = recipe.task
    if isinstance(task, VideoConfig) or not task.loss.perceptual:
        return None
    return task.loss.perceptual_at_once is not None


def with_switches(recipe: Recipe, checkpointed: bool | None, grouped: bool | None) -> Recipe:
    """The recipe with both set; None leaves one alone, as does what it is already."""
    task: Any = recipe.task
    if checkpointed is not None and isinstance(task, VideoConfig):
        task = task.model_copy(update={"gradient_checkpointing": checkpointed})
    if checkpointed is not None and isinstance(task, ReconstructionConfig):
        model = task.model.model_copy(update={"gradient_checkpointing": checkpointed})
        task = task.model_copy(update={"model": model})
    if grouped is not None and grouped != perceptual_groups(recipe):
        assert isinstance(task, ReconstructionConfig | AutoencoderConfig)
        at_once = FRAMES_AT_ONCE if grouped else None
        loss = task.loss.model_copy(update={"perceptual_at_once": at_once})
        task = task.model_copy(update={"loss": loss})
    return recipe.model_copy(update={"task": task})
