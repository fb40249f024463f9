from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from configs.errors import UserError
from models.autoencoders.cogvideox import CogVideoXAutoencoder, CogVideoXAutoencoderConfig
from models.autoencoders.files import load_autoencoder
from models.autoencoders.interface import latent_shape
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.ridge import fit_convolution

SMALL_COGVIDEOX = CogVideoXAutoencoderConfig(
    latent_channels=4, block_out_channels=(8, 8, 8, 8), norm_groups=4
)


def smooth_frames(num_clips: int, num_frames: int = 9, seed: int = 0) -> torch.Tensor:
    """Low-pass noise: redundant like video, so that a codec has something to find."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_clips, 3, 3, 4, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (num_frames, 32, 48), mode="trilinear")
    return fine.transpose(1, 2)


@pytest.mark.parametrize("num_frames", [1, 9, 17])
def test_round_trip_keeps_the_shape(num_frames: int) -> None:
    frames = smooth_frames(2, num_frames)
    for model in (
        LinearCodec(LinearCodecConfig(latent_channels=4)),
        CogVideoXAutoencoder.from_config(SMALL_COGVIDEOX).eval(),
    ):
        with torch.no_grad():
            latents = model.encode(frames)
            assert latents.shape[1:] == latent_shape(num_frames, 32, 48, 4)
            assert model.decode(latents).shape == frames.shape


def test_frame_counts_other_than_8k_plus_1_are_refused() -> None:
    with pytest.raises(UserError, match="use 9 or 17"):
        LinearCodec(LinearCodecConfig()).encode(torch.rand(1, 13, 3, 32, 48))
    with pytest.raises(UserError, match="divide by 8"):
        LinearCodec(LinearCodecConfig()).encode(torch.rand(1, 9, 3, 30, 48))


def test_linear_encoder_finds_the_principal_subspace() -> None:
    """Without neighbours, the codec's error is the energy outside the leading principal components."""
    frames = smooth_frames(24)
    codec = LinearCodec(LinearCodecConfig(latent_channels=6, overlap=0, context=1))
    codec.fit(frames)
    with torch.no_grad():
        error = (codec(frames)[0] - frames)[:, 1:].square().mean()
    groups = frames[:, 1:].reshape(24, 2, 4, 3, 4, 8, 6, 8).permute(0, 1, 4, 6, 2, 3, 5, 7)
    samples = groups.reshape(24 * 2 * 4 * 6, -1).double().numpy()
    values = np.linalg.svd(samples - samples.mean(0), compute_uv=False) ** 2
    expected = values[6:].sum() / samples.size
    assert float(error) == pytest.approx(expected, rel=0.02)


def test_neighbours_help_the_decoder() -> None:
    frames, held_out = smooth_frames(24), smooth_frames(8, seed=1)
    errors = []
    for context in (1, 3):
        codec = LinearCodec(LinearCodecConfig(latent_channels=4, context=context))
        codec.fit(frames)
        with torch.no_grad():
            errors.append(float((codec(held_out)[0] - held_out).square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_standardise_gives_unit_latents_and_the_same_frames(spread: float) -> None:
    frames = smooth_frames(16)
    codec = LinearCodec(LinearCodecConfig(latent_channels=4, overlap=0, spread=spread))
    codec.fit(frames)
    with torch.no_grad():
        codec.rest.analysis.weight *= 3
        before = codec(frames)[0]
        codec.standardise(frames)
        latents = codec.encode(frames)[:, :, 1:]
        torch.testing.assert_close(codec(frames)[0], before, atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    groups = frames[:, 1:].unflatten(1, (-1, 4)).flatten(2, 3).flatten(0, 1)
    blocks = F.pixel_unshuffle(groups, 8)
    samples = blocks.permute(0, 2, 3, 1).flatten(0, 2)
    sizes = torch.linalg.eigvalsh(torch.cov(samples.T)).flip(0)[:4].clamp_min(0).sqrt() ** spread
    expected = sizes / sizes.square().mean().sqrt()
    torch.testing.assert_close(latents.std(dim=(0, 2, 3, 4)), expected, atol=1e-2, rtol=0)


def test_cogvideox_is_diffusers_model_in_our_ranges() -> None:
    """Our encode and decode equal the diffusers calls that they wrap, done by hand."""
    model = CogVideoXAutoencoder.from_config(SMALL_COGVIDEOX).eval()
    frames = smooth_frames(2)
    with torch.no_grad():
        model.standardise(frames)
        latents = model.encode(frames)
        by_hand = model.vae.encode(frames.transpose(1, 2) * 2 - 1).latent_dist.mean
        factor = model.vae.config.scaling_factor
        torch.testing.assert_close(latents, by_hand * factor)
        assert float(latents.std()) == pytest.approx(1, rel=1e-4)
        decoded = (model.vae.decode(by_hand).sample.transpose(1, 2) + 1) / 2
        torch.testing.assert_close(model.decode(latents), decoded.clamp(0, 1))


def test_saved_autoencoders_load_as_what_they_are(tmp_path) -> None:
    frames = smooth_frames(1)
    linear = LinearCodec(LinearCodecConfig(latent_channels=4)).eval()
    cogvideox = CogVideoXAutoencoder.from_config(SMALL_COGVIDEOX).eval()
    for name, model in {"linear": linear, "cogvideox": cogvideox}.items():
        model.save_pretrained(tmp_path / name)
        again = load_autoencoder(tmp_path / name)
        assert type(again) is type(model)
        with torch.no_grad():
            assert torch.equal(again.encode(frames), model.encode(frames))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other model", "other shape"])
def test_bad_weights_are_named(tmp_path, damage: str) -> None:
    folder = tmp_path / "weights"
    LinearCodec(LinearCodecConfig(latent_channels=4)).save_pretrained(folder)
    weights, settings = folder / "model.safetensors", folder / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "other model":
        settings.write_text(settings.read_text().replace("linear_codec", "lalrm"))
    else:
        settings.write_text(
            settings.read_text().replace('"latent_channels": 4', '"latent_channels": 5')
        )
    with pytest.raises(UserError, match=str(folder)):
        load_autoencoder(folder)


def test_ridge_recovers_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.Conv2d(3, 5, 3, padding=1, padding_mode="replicate")
    inputs = torch.randn(8, 3, 10, 12, generator=generator)
    fitted = torch.nn.Conv2d(3, 5, 3, padding=1, padding_mode="replicate")
    with torch.no_grad():
        fit_convolution(fitted, inputs, truth(inputs), ridge=1e-9)
    torch.testing.assert_close(fitted.weight, truth.weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fitted.bias, truth.bias, atol=1e-5, rtol=1e-4)
