"""Pictures of a scene that a prior draws anew, for the scene to be fitted to.

The other way to learn from a prior, beside score distillation: renders are taken a little way to noise and back
(`models.priors.denoising`), and the scene is fitted to what comes out, round by round with less noise. It is
DreamGaussian's second stage (arXiv 2309.16653, sec. 3.3), which does it to a texture, done to Gaussians; with the
pictures kept for many steps, as Instruct-NeRF2NeRF does (arXiv 2303.12789, sec. 4.2), it asks the prior far less often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from data.cameras import Cameras, concatenate_cameras
from models.gaussians import Gaussians
from models.priors.denoising import MOST_NOISE, denoised_change
from models.priors.interface import DiffusionPrior
from models.rendering.render import render
from models.stopwatch import Stopwatch
from train.distillation.cameras import ViewSampler
from train.distillation.noise import NoiseConfig


class RedrawConfig(Config):
    """How pictures are drawn anew, and how they count."""

    every: int = Field(200, gt=0, description="steps that a round of pictures serves")
    looks: int = Field(4, gt=0, description="a round: paths, or groups of single views")
    noise: NoiseConfig = NoiseConfig(first=0.2, last=0.05)
    denoise_steps: int = Field(10, gt=0, description="predictions for each look")
    weight: float = Field(1e3, gt=0, description="of the pictures' mean absolute error")
    views_per_step: int = Field(4, gt=0)


@dataclass(frozen=True)
class Redrawn:
    """The pictures of a round, and where from."""

    frames: Float[Tensor, "v 3 h w"]
    cameras: Cameras

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return {
            "frames": self.frames,
            "world_to_camera": self.cameras.world_to_camera,
            "intrinsics": self.cameras.intrinsics,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], device: torch.device) -> Redrawn:
        """The inverse of `state`, with the frames on `device`."""
        frames = state["frames"].to(device)
        cameras = Cameras(state["world_to_camera"], state["intrinsics"], *frames.shape[2:])
        return cls(frames, cameras)


@torch.no_grad()
def redraw(
    scene: Gaussians,
    prior: DiffusionPrior,
    sampler: ViewSampler,
    config: RedrawConfig,
    progress: float,
    background: Float[Tensor, " 3"],
    generator: torch.Generator,
    watch: Stopwatch,
) -> Redrawn:
    """A round's pictures: renders of the scene, changed as the prior changes them.

    progress: share of the run that is over, for the noise. watch: told of the seconds of "rasteriser" and "prior".
    """
    levels = len(prior.signal)
    noise = min(MOST_NOISE, config.noise.level(progress, levels) / levels)
    frames, cameras = [], []
    for _ in range(config.looks):
        seen = sampler.draw(prior, generator)
        with watch("rasteriser"):
            drawn = render(scene, seen.to(scene.means.device), background=background).frames
        drawn = drawn.clamp(0, 1)
        with watch("prior"):
            change = denoised_change(prior, drawn, seen, noise, config.denoise_steps, generator)
        frames.append((drawn + change).clamp(0, 1))
        cameras.append(seen)
    return Redrawn(torch.cat(frames), concatenate_cameras(cameras))
