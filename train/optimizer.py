"""AdamW with weight decay on matrices only."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from configs.errors import UserError
from configs.loader import Config

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """AdamW's settings; `lr` is the peak that the schedule scales."""

    lr: float = Field(6e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0, description="on parameters of two or more axes")


def create_optimizer(
    module: nn.Module,
    config: OptimizerConfig,
    optimizer_class: type[torch.optim.AdamW] = torch.optim.AdamW,
) -> torch.optim.AdamW:
    """An optimizer over the trainable parameters of `module`; biases, gains and scalars don't decay."""
    trainable = trainable_parameters(module)
    groups = [
        {
            "params": [p for p in trainable.values() if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in trainable.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return optimizer_class(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
    )


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that ask for a gradient, by name. Raises UserError where there is none."""
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not found:
        raise UserError("the task's model has no trainable parameter: nothing to train")
    return found
