"""Which noise levels a diffusion model is trained on."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from configs.loader import Config


class TimestepConfig(Config):
    """The density of the timestep u in [0, 1), where 1 is pure noise.

    uniform: as CogVideoX's. logit_normal: the logit of u is normal (Stable Diffusion 3, sec. 3.1).
    power: proportional to u to the `exponent`, which favours high noise, where the camera's motion is
    decided; ours.
    """

    kind: Literal["uniform", "logit_normal", "power"] = "uniform"
    mean: float = Field(0.0, description="logit_normal: of the logit")
    std: float = Field(1.0, gt=0, description="logit_normal: of the logit")
    exponent: float = Field(1.0, ge=0, description="power: 0 is uniform")

    def draw(
        self, count: int, num_timesteps: int, generator: torch.Generator
    ) -> Int[Tensor, " count"]:
        """Timesteps 0 to `num_timesteps` - 1, spread evenly over the density, in random order.

        Each falls into its own `count`-th of the distribution, so that a batch is never all low noise.
        """
        places = torch.randperm(count, generator=generator)
        shares = (places + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        return (self.quantile(shares) * num_timesteps).long().clamp(0, num_timesteps - 1)

    def quantile(self, shares: Tensor) -> Tensor:
        """The u below which lie the given shares of the distribution."""
        if self.kind == "logit_normal":
            return torch.sigmoid(self.mean + self.std * torch.special.ndtri(shares))
        if self.kind == "power":
            return shares ** (1 / (self.exponent + 1))
        return shares
