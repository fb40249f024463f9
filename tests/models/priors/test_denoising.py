"""Noise added and taken away again: DDIM by hand, an exact Gaussian denoiser, and an oracle."""

from __future__ import annotations

import pytest
import torch

from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from models.priors.denoising import denoised_change, denoising_levels, renoise_and_denoise
from models.priors.oracle import OraclePrior

SIGNAL = torch.linspace(0.9999, 0.0, 1000, dtype=torch.float64)
"""Ends without any signal, as CogVideoX's schedule does."""


@pytest.fixture(scope="module")
def path() -> Cameras:
    lens = intrinsics_from_fov(45.0, 16, 24)[None]
    return make_path("truck", Cameras(torch.eye(4)[None], lens, 16, 24), 4, 0.3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class GaussianPrior(OraclePrior):
    """Knows that latents are normal with a mean and a deviation: its denoiser is exact."""

    mean, deviation = 0.3, 0.2

    def predict_noise(self, noisy, level, cameras):
        a = float(self.signal[level])
        return (1 - a) ** 0.5 * (noisy - a**0.5 * self.mean) / (a * self.deviation**2 + 1 - a)


@pytest.fixture
def gaussian() -> GaussianPrior:
    return GaussianPrior(lambda cameras: torch.zeros(4, 3, 16, 24), SIGNAL)


def test_levels_fall_evenly_to_just_above_the_clean_latents():
    assert denoising_levels(1000, 0.2, 4) == [199, 149, 99, 49]
    assert denoising_levels(1000, 0.98, 1) == [979]
    assert denoising_levels(1000, 0.003, 10) == [2, 1, 0]
    assert denoising_levels(1000, 0.0, 10) == []
    for noise in (0.05, 0.31, 0.98):
        levels = denoising_levels(1000, noise, 7)
        assert len(levels) == 7 and levels == sorted(set(levels), reverse=True) and levels[-1] >= 0


def test_one_step_by_hand(gaussian, path):
    latents = torch.rand(4, 3, 16, 24, generator=seeded(1))
    found = renoise_and_denoise(gaussian, latents, path, 0.5, 1, seeded())
    a = float(SIGNAL[499])
    noisy = a**0.5 * latents + (1 - a) ** 0.5 * torch.randn(latents.shape, generator=seeded())
    predicted = gaussian.predict_noise(noisy, 499, path)
    assert torch.allclose(found, (noisy - (1 - a) ** 0.5 * predicted) / a**0.5, atol=1e-5)


def test_many_steps_follow_the_flow_of_an_exact_denoiser(gaussian, path):
    """For normal latents the flow is known: x keeps its distance from the mean in deviations."""
    latents = torch.rand(4, 3, 16, 24, generator=seeded(1))
    few, many = (
        renoise_and_denoise(gaussian, latents, path, 0.6, steps, seeded()) for steps in (150, 600)
    )
    a = float(SIGNAL[599])
    noisy = a**0.5 * latents + (1 - a) ** 0.5 * torch.randn(latents.shape, generator=seeded())
    deviation = (a * gaussian.deviation**2 + 1 - a) ** 0.5
    known = gaussian.mean + gaussian.deviation * (noisy - a**0.5 * gaussian.mean) / deviation
    error = (many - known).abs().mean()
    assert error < 0.005 and error < 0.4 * (few - known).abs().mean()  # of first order in the step
    assert (latents - known).abs().mean() > 0.2


def test_an_oracle_leads_from_any_level_to_the_truth(path):
    truth, wrong = torch.rand(2, 4, 3, 16, 24, generator=seeded(2))
    prior = OraclePrior(lambda cameras: truth, SIGNAL)
    for noise in (0.05, 0.5, 0.98):
        change = denoised_change(prior, wrong, path, noise, 5, seeded())
        assert torch.allclose(wrong + change, truth, atol=1e-4), noise


def test_without_noise_nothing_changes_and_seeds_decide(gaussian, path):
    frames = torch.rand(4, 3, 16, 24, generator=seeded(1))
    assert torch.equal(
        denoised_change(gaussian, frames, path, 0.0, 5, seeded()), torch.zeros_like(frames)
    )
    latents = gaussian.encode(frames)
    assert torch.equal(renoise_and_denoise(gaussian, latents, path, 0.0, 5, seeded()), latents)
    one, same, other = (
        denoised_change(gaussian, frames, path, 0.3, 5, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other) and one.abs().max() > 0.01
