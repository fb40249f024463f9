"""Distillation's gradient against the formula in float64, taken apart: prior, noise, autoencoder, renderer."""

from __future__ import annotations

import copy

import pytest
import torch

from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.gaussians import Gaussians
from models.priors.interface import noise_of_velocity
from models.rendering.render import render
from train.distillation.loss import distillation_loss

SIGNAL = torch.linspace(0.999, 0.001, 1000, dtype=torch.float64)


class SmallPrior:
    """A codec and a random network that predicts velocity from noisy latents, level and cameras."""

    kind, num_views, frame_size, signal = "path", 9, None, SIGNAL

    def __init__(self, dtype: torch.dtype) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            codec = LinearCodec(LinearCodecConfig(latent_channels=4))
            codec.fit(torch.rand(4, 9, 3, 32, 48))
            self.network = torch.nn.Sequential(
                torch.nn.Conv3d(5, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv3d(8, 4, 1)
            ).to(dtype)
        self.codec = copy.deepcopy(codec).to(dtype)

    def encode(self, frames):
        return self.codec.encode(frames[None])

    def decode(self, latents):
        return self.codec.decode(latents)[0]

    def predict_noise(self, noisy, level, cameras):
        told = noisy.new_full(
            (1, 1, *noisy.shape[2:]), level / 1000 + float(cameras.positions.sum())
        )
        velocity = self.network(torch.cat([noisy, told], dim=1))
        return noise_of_velocity(velocity, noisy, float(self.signal[level]))


@pytest.mark.parametrize("level", [20, 500, 980])
def test_gradient_is_the_formulas(damaged, path, level):
    def renders(dtype, backend):
        inputs = {n: t.detach().to(dtype).requires_grad_() for n, t in damaged.tensors().items()}
        drawn = render(Gaussians(**inputs), path.to(dtype), backend=backend)
        return inputs, drawn.frames

    inputs, frames = renders(torch.float32, "cpu")
    prior = SmallPrior(torch.float32)
    noise = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    distillation_loss(prior, frames, path, level, generator).backward()

    # By hand: w (e' - e) through the codec's matrix, then through the reference renderer.
    exact = SmallPrior(torch.float64)
    truth_inputs, truth_frames = renders(torch.float64, "reference")
    matrix = torch.autograd.functional.jacobian(exact.encode, truth_frames.detach())
    latents, a = exact.encode(truth_frames.detach()), SIGNAL[level]
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise.double()
    told = torch.full((1, 1, 3, 4, 6), level / 1000 + float(path.positions.double().sum()))
    velocity = exact.network(torch.cat([noisy, told.double()], dim=1)).detach()
    predicted = a.sqrt() * velocity + (1 - a).sqrt() * noisy
    by_latents = (1 - a) * (predicted - noise.double())
    by_frames = torch.tensordot(by_latents, matrix, dims=5)
    truth_frames.backward(by_frames)

    for name, value in truth_inputs.items():
        error = (inputs[name].grad.double() - value.grad).norm() / value.grad.norm()
        assert error < 1e-4, f"{name} is off by {float(error):.1e}"


def test_no_gradient_reaches_the_prior_and_equal_noise_gives_equal_loss(damaged, path):
    prior = SmallPrior(torch.float32)
    frames = render(damaged, path).frames.requires_grad_()
    losses = [
        distillation_loss(prior, frames, path, 300, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    assert all(p.grad is None for p in prior.network.parameters())
    # The value is half the squared gradient by the latents.
    with torch.no_grad():
        latents = prior.encode(frames)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        a = float(SIGNAL[300])
        noisy = a**0.5 * latents + (1 - a) ** 0.5 * noise
        gradient = (1 - a) * (prior.predict_noise(noisy, 300, path) - noise)
    assert float(losses[0]) == pytest.approx(0.5 * float(gradient.square().sum()), rel=1e-4)
