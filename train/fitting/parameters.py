"""The parameters of a scene under optimisation, and their learning rates."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from configs.loader import Config
from models.gaussians import Gaussians

LOGIT_LIMIT = 1e-4
"""Opacities are kept this far from 0 and 1, where the logit is infinite."""


class FitRates(Config):
    """Adam's learning rate of each group, at the start."""

    means: float = Field(3e-3, gt=0, description="scene units a step")
    quats: float = Field(1e-2, gt=0)
    scales: float = Field(2e-2, gt=0, description="of the log scales")
    opacities: float = Field(5e-2, gt=0, description="of the opacity logits")
    colors: float = Field(1e-2, gt=0)


class RawGaussians:
    """The optimised parameters: log scales, opacity logits, and the rest as they are."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {name: nn.Parameter(value) for name, value in tensors.items()}

    @staticmethod
    def from_gaussians(gaussians: Gaussians) -> RawGaussians:
        tensors = {name: value.detach().clone() for name, value in gaussians.tensors().items()}
        tensors["scales"] = tensors["scales"].log()
        tensors["opacities"] = tensors["opacities"].clamp(LOGIT_LIMIT, 1 - LOGIT_LIMIT).logit()
        return RawGaussians(tensors)

    @property
    def num_gaussians(self) -> int:
        return self.tensors["means"].shape[0]

    def gaussians(self) -> Gaussians:
        """The activated Gaussians, differentiable in the raw parameters."""
        raw = self.tensors
        return Gaussians(
            means=raw["means"],
            quats=torch.nn.functional.normalize(raw["quats"], dim=-1),
            scales=raw["scales"].exp(),
            opacities=raw["opacities"].sigmoid(),
            colors=raw["colors"],
        )

    @torch.no_grad()
    def project(self) -> None:
        """Moves RGB colours back into [0, 1]; spherical harmonics have no such bounds."""
        if self.tensors["colors"].ndim == 2:
            self.tensors["colors"].clamp_(0, 1)

    @torch.no_grad()
    def opaque_rows(self, min_opacity: float) -> Tensor:
        """Indices of what to keep: opacity at least `min_opacity`, all parameters finite."""
        keep = self.tensors["opacities"].sigmoid() >= min_opacity
        for value in self.tensors.values():
            keep &= value.isfinite().reshape(len(keep), -1).all(dim=1)
        return torch.nonzero(keep)[:, 0]
