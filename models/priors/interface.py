"""What scenes can be distilled from: a denoiser that knows what pictures look like.

Noise levels t count from 0, almost clean, to the schedule's last, almost noise; with a_t for `signal(t)`,

    noisy = sqrt(a_t) latents + sqrt(1 - a_t) noise
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras

ViewKind = Literal["path", "single"]
"""Whether a prior looks at the views of a step as one path from the input view on, or at each by itself."""


@runtime_checkable
class DiffusionPrior(Protocol):
    """A denoiser of latents of views of a scene, conditioned on whatever it was made with."""

    @property
    def kind(self) -> ViewKind: ...

    @property
    def num_views(self) -> int | None:
        """Views that it looks at in one step; None where any number will do."""
        ...

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width [px] of the pictures it knows; None where it takes them as they are."""
        ...

    @property
    def signal(self) -> Float[Tensor, " levels"]:
        """a_t: the share of the latents' variance that is left at each noise level; float64, on the CPU."""
        ...

    def encode(self, frames: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "b ..."]:
        """Latents of frames in [0, 1], differentiable in the frames."""
        ...

    def decode(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "v 3 h w"]:
        """Frames in [0, 1] of latents such as `encode` gives; no gradient."""
        ...

    def predict_noise(
        self, noisy: Float[Tensor, "b ..."], level: int, cameras: Cameras
    ) -> Float[Tensor, "b ..."]:
        """The guided prediction of the noise in `noisy`, latents of what `cameras` `[v]` see; no gradient.

        cameras: in the axes and the unit of the scene.
        """
        ...


def noise_of_velocity(
    velocity: Float[Tensor, "*shape"], noisy: Float[Tensor, "*shape"], signal: float
) -> Float[Tensor, "*shape"]:
    """The noise that a v-prediction means (Salimans and Ho 2022, appendix D)."""
    return signal**0.5 * velocity + (1 - signal) ** 0.5 * noisy


def noise_of_clean(
    clean: Float[Tensor, "*shape"], noisy: Float[Tensor, "*shape"], signal: float
) -> Float[Tensor, "*shape"]:
    """The noise in `noisy`, were `clean` the latents below it."""
    return (noisy - signal**0.5 * clean) / (1 - signal) ** 0.5


def check_finite(predicted: Tensor, prior: str) -> Tensor:
    """The prediction; raises UserError where it holds NaN or infinity."""
    if not bool(torch.isfinite(predicted).all()):
        raise UserError(
            f"the prior ({prior}) predicted NaN or infinite noise; lower its guidance, or use float32"
        )
    return predicted
