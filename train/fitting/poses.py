"""Cameras that are optimised with the scene they see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from configs.loader import Config
from data.cameras import Cameras, skew
from train.fitting.adam_state import load_adam, save_adam

ADAM_EPS = 1e-15


class PoseConfig(Config):
    """How far cameras may go from where they are said to be."""

    rate: float = Field(1e-3, gt=0, description="of the twists: scene units and radians a step")
    start: float = Field(
        0.0, ge=0, lt=1, description="share of the run before cameras move: the scene comes first"
    )


class PoseCorrections:
    """One twist (v, w) a view, world_to_camera <- exp(v, w) world_to_camera, as in `train.alignment.step`.

    The first view stays, for it defines the axes. Nothing holds the unit of length but the scene's own start.
    """

    def __init__(self, cameras: Cameras, config: PoseConfig) -> None:
        self.given, self.config = cameras, config
        self.twists = nn.Parameter(cameras.world_to_camera.new_zeros(cameras.num_views - 1, 6))
        self.adam = torch.optim.Adam([self.twists], lr=0.0, eps=ADAM_EPS)

    def corrected(self, cameras: Cameras, views: list[int]) -> Cameras:
        """The given views of `cameras`, which may be of another size, where they are now; differentiable."""
        twists = torch.cat([torch.zeros_like(self.twists[:1]), self.twists])[views]
        chosen = cameras.select(views)
        return replace(chosen, world_to_camera=rigid_motion(twists) @ chosen.world_to_camera)

    def step(self, progress: float, decay: float) -> None:
        """Goes down the gradient that the loss has left; decay: what the rates have fallen to."""
        self.adam.param_groups[0]["lr"] = self.config.rate * decay
        if progress >= self.config.start:
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    @torch.no_grad()
    def cameras(self) -> Cameras:
        """All views where they are now."""
        return self.corrected(self.given, list(range(self.given.num_views)))

    def state(self) -> dict[str, Tensor]:
        """For a continued run."""
        return {"twists": self.twists.detach(), **save_adam(self.adam, self.twists)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            self.twists.copy_(state["twists"])
        load_adam(self.adam, self.twists, state)


def rigid_motion(twists: Float[Tensor, "n 6"]) -> Float[Tensor, "n 4 4"]:
    """exp of twists (translation part, rotation vector), differentiable at zero too."""
    shift, turn = twists.split(3, dim=-1)
    generator = torch.cat([skew(turn), shift[..., None]], dim=-1)
    generator = torch.cat([generator, torch.zeros_like(generator[:, :1])], dim=1)
    return torch.linalg.matrix_exp(generator)
