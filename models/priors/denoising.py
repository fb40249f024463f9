"""Pictures taken part of the way to noise and back: what a prior makes of them, without losing what they show.

SDEdit (arXiv 2108.01073): noise of an intermediate level hides what is small and wrong and leaves the layout; a
diffusion model then draws the small things anew. DreamGaussian (arXiv 2309.16653, sec. 3.3) makes targets for a
texture so, f(I + e(t); t, c). The way back is deterministic DDIM (arXiv 2010.02502, eq. 12 with sigma = 0): with a_t
for the signal at level t and e for the noise that the prior predicts,

    clean = (noisy - sqrt(1 - a_t) e) / sqrt(a_t)
    noisy at the next level s = sqrt(a_s) clean + sqrt(1 - a_s) e
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.priors.interface import DiffusionPrior

MOST_NOISE = 0.98
"""Share of the schedule above which there is too little signal left to divide by; some schedules end without any."""


def denoising_levels(num_levels: int, noise: float, steps: int) -> list[int]:
    """Levels to denoise at, falling evenly from a share `noise` of the schedule to just above the clean latents.

    At most `steps` of them; none for no noise.
    """
    assert 0 <= noise <= MOST_NOISE and steps > 0
    above_clean = round(noise * num_levels)  # levels from 0 to the first one
    count = min(steps, above_clean)
    return [above_clean * (count - step) // count - 1 for step in range(count)]


@torch.no_grad()
def renoise_and_denoise(
    prior: DiffusionPrior,
    latents: Float[Tensor, "b ..."],
    cameras: Cameras,
    noise: float,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, "b ..."]:
    """What the prior makes of latents after noise was added to them; the latents themselves for no noise.

    latents: of what `cameras` `[v]` see, as `prior.encode` gives them. noise: level, as a share of the schedule, 0 to
    `MOST_NOISE`. steps: predictions at most. generator: of the noise, on the CPU.
    """
    levels = denoising_levels(len(prior.signal), noise, steps)
    if not levels:
        return latents
    added = torch.randn(latents.shape, generator=generator, dtype=latents.dtype).to(latents.device)
    signals = [float(prior.signal[level]) for level in levels]
    current = signals[0] ** 0.5 * latents + (1 - signals[0]) ** 0.5 * added
    for level, signal, below in zip(levels, signals, [*signals[1:], 1.0], strict=True):
        predicted = prior.predict_noise(current, level, cameras)
        clean = (current - (1 - signal) ** 0.5 * predicted) / signal**0.5
        current = below**0.5 * clean + (1 - below) ** 0.5 * predicted
    return current


@torch.no_grad()
def denoised_change(
    prior: DiffusionPrior,
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    noise: float,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, "v 3 h w"]:
    """By how much noise and the prior change frames in [0, 1]: zero for no noise. Arguments as for
    `renoise_and_denoise`.

    Both sides of the difference have gone through the autoencoder, so what that loses is no change.
    """
    latents = prior.encode(frames)
    found = renoise_and_denoise(prior, latents, cameras, noise, steps, generator)
    if found is latents:
        return torch.zeros_like(frames)
    return prior.decode(found) - prior.decode(latents)
