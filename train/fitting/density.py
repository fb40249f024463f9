"""Density control: Gaussians are cloned and split where the picture wants more of them, and pruned where it does not.

The rules are those of gsplat 1.5.3's `DefaultStrategy` (3DGS, sec. 5), which itself runs on CUDA
(`train.fitting.gsplat_density`); for everywhere else they are written in plain PyTorch
(`train.fitting.torch_density`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from models.rendering.screen import ScreenTrace
from train.fitting.parameters import RawGaussians


class DensityConfig(Config):
    """When and where Gaussians come and go. Thresholds are gsplat's; steps suit runs of some hundreds."""

    start: int = Field(100, ge=0, description="steps before the first change")
    stop: int = Field(15_000, gt=0, description="no change from this step on")
    every: int = Field(100, gt=0)
    grow_gradient: float = Field(
        2e-4,
        gt=0,
        description="mean size of the loss' gradient by the place on the screen, whose half sides are 1, above"
        " which a Gaussian is cloned or split",
    )
    split_scale: float = Field(
        0.01,
        gt=0,
        description="larger ones are split, smaller ones cloned; share of the scene's scale",
    )
    prune_scale: float = Field(
        0.1, gt=0, description="larger ones are pruned, of the scene's scale"
    )
    prune_large_after: int = Field(3000, ge=0, description="steps before that is done")
    scene_scale: float = Field(1.0, gt=0, description="scene units")
    max_gaussians: int | None = Field(
        None, gt=0, description="no more than these: the largest gradients come first; ours"
    )


@runtime_checkable
class EditableScene(Protocol):
    """What density control works on (`train.fitting.optimiser.SceneOptimiser`)."""

    raw: RawGaussians
    adams: dict[str, torch.optim.Adam]

    def keep_rows(self, rows: Tensor) -> None:
        """Re-indexes parameters and moments."""
        ...

    def append_rows(self, new: Mapping[str, Tensor]) -> None:
        """Adds raw Gaussians with moments of zero."""
        ...


@runtime_checkable
class DensityControl(Protocol):
    """What a `SceneOptimiser` asks after every step."""

    def watches(self, step: int) -> bool:
        """Whether it wants a trace of this step's render."""
        ...

    def after_step(self, step: int, trace: ScreenTrace, size: tuple[int, int]) -> None:
        """Takes note of a step's trace, and changes the scene where it is time to. size: height, width [px]."""
        ...

    def keep_rows(self, rows: Tensor) -> None:
        """The scene was re-indexed by `rows`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it has taken note of."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...
