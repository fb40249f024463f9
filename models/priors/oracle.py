"""A prior that knows the truth: what a perfect denoiser of one scene's views would say.

With it, what distillation reaches is the machinery's doing alone. For tests and measurements.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.autoencoders.interface import VideoAutoencoder
from models.priors.interface import ViewKind, noise_of_clean

Truth = Callable[[Cameras], Float[Tensor, "v 3 h w"]]


class OraclePrior:
    """Denoises toward the true views; each view is a clip of one frame to the autoencoder.

    truth: the true pictures [0, 1] of any cameras. autoencoder: None works on the pixels, in [-1, 1].
    """

    kind: ViewKind = "single"
    num_views: int | None = None
    frame_size: tuple[int, int] | None = None

    def __init__(
        self,
        truth: Truth,
        signal: Float[Tensor, " levels"],
        autoencoder: VideoAutoencoder | None = None,
    ) -> None:
        self.truth, self.signal, self.autoencoder = truth, signal.double().cpu(), autoencoder

    def encode(self, frames: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v ..."]:
        if self.autoencoder is None:
            return 2 * frames - 1
        return self.autoencoder.encode(frames[:, None])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "v ..."]) -> Float[Tensor, "v 3 h w"]:
        if self.autoencoder is None:
            return ((latents + 1) / 2).clamp(0, 1)
        return self.autoencoder.decode(latents)[:, 0]

    @torch.no_grad()
    def predict_noise(
        self, noisy: Float[Tensor, "v ..."], level: int, cameras: Cameras
    ) -> Float[Tensor, "v ..."]:
        clean = self.encode(self.truth(cameras).to(noisy))
        return noise_of_clean(clean, noisy, float(self.signal[level]))
