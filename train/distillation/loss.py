"""Score distillation: a loss whose gradient pulls renders to where a denoiser would have them.

DreamFusion (arXiv 2209.14988), eq. 3, in the form and with the weights of DreamGaussian (arXiv 2309.16653): with z the
latents of renders, a_t the signal at noise level t, e the noise and e' the prior's prediction of it,

    dL/dz = w(t) (e' - e) / b,   w(t) = 1 - a_t

where b is the number of latents. No gradient goes through the prior.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.priors.interface import DiffusionPrior
from models.stopwatch import Stopwatch


def distillation_loss(
    prior: DiffusionPrior,
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    level: int,
    generator: torch.Generator,
    watch: Stopwatch | None = None,
) -> Float[Tensor, ""]:
    """Its gradient by the frames is that of distillation; its value is half the squared gradient by the latents.

    frames: renders in [0, 1], differentiable. generator: of the noise, on the CPU. watch: told of the prior's time.
    """
    latents = prior.encode(frames)
    signal = float(prior.signal[level])
    noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype).to(latents.device)
    with torch.no_grad():
        noisy = signal**0.5 * latents + (1 - signal) ** 0.5 * noise
        if watch is None:
            predicted = prior.predict_noise(noisy, level, cameras)
        else:
            with watch("prior"):
                predicted = prior.predict_noise(noisy, level, cameras)
        target = latents - (1 - signal) * (predicted - noise)
    return 0.5 * (latents - target).square().sum() / len(latents)
