"""Priors on small random models: what they predict, by hand, and what they refuse."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov, stack_cameras
from models.autoencoders.files import load_autoencoder
from models.bundled_weights import TINY_AUTOENCODER
from models.pipeline import ImageToScenePipeline
from models.priors.image import ImagePrior, latent_frame_size, load_image_prior
from models.priors.image_pose import is_posed_pipeline, load_posed_image_prior, relative_turns
from models.priors.interface import DiffusionPrior, noise_of_clean, noise_of_velocity
from models.priors.oracle import OraclePrior
from models.priors.video import VideoPrior
from models.video.clip_chain import clip_cameras
from models.video.guidance import GuidanceConfig

SIGNAL = torch.linspace(0.999, 0.001, 1000, dtype=torch.float64)


@pytest.fixture(scope="module")
def path() -> Cameras:
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    return make_path("truck", Cameras(torch.eye(4)[None], lens, 32, 48), 9, 0.3)


@pytest.fixture(scope="module")
def pipeline(pipeline_folder) -> ImageToScenePipeline:
    return ImageToScenePipeline.from_pretrained(pipeline_folder)


def test_noise_velocity_and_clean_latents_agree():
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    for a in (0.02, 0.5, 0.98):
        noisy = a**0.5 * clean + (1 - a) ** 0.5 * noise
        velocity = a**0.5 * noise - (1 - a) ** 0.5 * clean
        assert torch.allclose(noise_of_velocity(velocity, noisy, a), noise)
        assert torch.allclose(noise_of_clean(clean, noisy, a), noise)


def test_video_prior_is_the_guided_video_model_along_the_path(pipeline, path):
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    prior = VideoPrior(pipeline, image, 2.0, GuidanceConfig(image=3.0, camera=3.0))
    assert isinstance(prior, DiffusionPrior)
    assert (prior.num_views, prior.frame_size, len(prior.signal)) == (9, (32, 48), 1000)
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    latents = prior.encode(frames)
    assert torch.equal(latents, pipeline.autoencoder.encode(frames[None]))
    assert torch.equal(prior.decode(latents), pipeline.autoencoder.decode(latents)[0])
    found = prior.predict_noise(latents, 400, path)

    cameras = stack_cameras([clip_cameras(path, range(9), 2.0)])
    told = pipeline.autoencoder.encode(image[None, None])
    level = torch.tensor([400])
    with torch.no_grad():
        bare = pipeline.model(latents, torch.zeros_like(told), level)
        full = pipeline.model(latents, told, level, None, cameras)
    expected = noise_of_velocity(bare + 3 * (full - bare), latents, float(prior.signal[400]))
    assert torch.allclose(found, expected, atol=1e-4)
    moved = prior.predict_noise(latents, 400, path.select([0] * 9))
    assert (moved - found).abs().max() > 1e-4, "cameras have no effect"


def test_video_prior_takes_the_empty_prompt_where_there_is_a_text_encoder(
    pipeline, path, monkeypatch
):
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    without = VideoPrior(pipeline, image, 2.0, GuidanceConfig())
    zeros = pipeline.model.base.no_text(1)
    assert torch.equal(without.text, zeros)
    monkeypatch.setattr(pipeline, "unprompted_text", lambda: zeros + 0.5)
    latents = torch.randn(without.encode(torch.rand(9, 3, 32, 48)).shape)
    told = VideoPrior(pipeline, image, 2.0, GuidanceConfig())
    predictions = [prior.predict_noise(latents, 400, path) for prior in (without, told)]
    assert not torch.allclose(*predictions)


def test_gradients_reach_the_frames_and_not_the_weights(pipeline, path):
    prior = VideoPrior(pipeline, torch.rand(3, 32, 48), 1.0, GuidanceConfig())
    frames = torch.rand(9, 3, 32, 48, requires_grad=True)
    prior.encode(frames).square().sum().backward()
    assert frames.grad is not None and frames.grad.abs().sum() > 0
    assert all(p.grad is None for p in pipeline.autoencoder.parameters())
    assert not prior.predict_noise(prior.encode(frames), 10, path).requires_grad


def test_video_prior_refuses_an_image_of_another_size(pipeline):
    with pytest.raises(UserError, match="32x48.*64x96"):
        VideoPrior(pipeline, torch.rand(3, 64, 96), 1.0, GuidanceConfig())


def test_an_oracle_predicts_the_noise_that_leads_to_the_truth(path):
    truth = torch.rand(9, 3, 32, 48)
    prior = OraclePrior(lambda cameras: truth, SIGNAL)
    assert isinstance(prior, DiffusionPrior)
    noise = torch.randn(9, 3, 32, 48)
    a = float(SIGNAL[300])
    noisy = a**0.5 * (2 * truth - 1) + (1 - a) ** 0.5 * noise
    assert torch.allclose(prior.predict_noise(noisy, 300, path), noise, atol=1e-5)
    assert torch.allclose(prior.decode(prior.encode(truth)), truth, atol=1e-6)
    codec = load_autoencoder(TINY_AUTOENCODER)
    clear = torch.linspace(0.2, 0.8, 48).expand(2, 3, 32, 48)
    through = OraclePrior(lambda cameras: truth, SIGNAL, codec)
    assert (through.decode(through.encode(clear)) - clear).abs().mean() < 0.02


def test_image_prior_is_the_unet_guided_by_the_prompt(stable_diffusion, path):
    prior = load_image_prior(str(stable_diffusion), "a ab", guidance=7.0, proportions=(32, 48))
    assert isinstance(prior, DiffusionPrior)
    assert prior.frame_size == (12, 20)  # 16x16 is what it knows
    other = load_image_prior(str(stable_diffusion), "b c", guidance=7.0)
    frames = torch.rand(2, 3, 12, 20, requires_grad=True)
    latents = prior.encode(frames)
    assert latents.shape == (2, 4, 6, 10)
    latents.sum().backward()
    assert frames.grad.abs().sum() > 0
    latents = latents.detach()
    scaled = latents / prior.vae.config.scaling_factor
    with torch.no_grad():
        known = (prior.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)
    assert torch.equal(prior.decode(latents), known) and known.shape == (2, 3, 12, 20)
    found = prior.predict_noise(latents, 600, path)
    level = torch.tensor([600, 600])
    with torch.no_grad():
        parts = [
            noise_of_velocity(
                prior.unet(latents, level, encoder_hidden_states=text.expand(2, -1, -1)).sample,
                latents,
                float(prior.signal[600]),
            )
            for text in prior.text
        ]
    assert torch.allclose(found, parts[0] + 7 * (parts[1] - parts[0]), atol=1e-4)
    assert not torch.allclose(found, other.predict_noise(latents, 600, path), atol=1e-5)


def test_pipelines_that_do_not_fit_are_refused(stable_diffusion, tmp_path):
    with pytest.raises(UserError, match="has no tokenizer/"):
        load_image_prior(str(tmp_path), "a")
    with pytest.raises(UserError, match="not a pipeline that loads"):
        load_image_prior("nobody/has-such-a-pipeline", "a")
    good = load_image_prior(str(stable_diffusion), "a")
    from diffusers import DDIMScheduler, UNet2DConditionModel

    parts = (good.vae, DDIMScheduler(), good.text, 7.0, (16, 16))
    wide = UNet2DConditionModel.from_config({**good.unet.config, "in_channels": 8})
    with pytest.raises(UserError, match="takes 8 channels, but the latents have 4"):
        ImagePrior("this", wide, *parts)
    other = UNet2DConditionModel.from_config({**good.unet.config, "cross_attention_dim": 16})
    with pytest.raises(UserError, match="width 16.*12"):
        ImagePrior("this", other, *parts)
    scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(UserError, match="'sample'"):
        ImagePrior("this", good.unet, good.vae, scheduler, good.text, 7.0, (16, 16))
    assert latent_frame_size(good.unet, good.vae, 1, 1) == (16, 16)


@pytest.mark.parametrize("part", ["text_encoder", "vae", "unet"])
def test_weights_that_are_missing_are_not_made_up(stable_diffusion, tmp_path, part):
    broken = tmp_path / "broken"
    shutil.copytree(stable_diffusion, broken)
    (file,) = (broken / part).glob("*.safetensors")
    weights = load_file(file)
    first = sorted(weights)[0]
    save_file({n: w for n, w in weights.items() if n != first}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{part} lacks 1 weights, the first is"):
        load_image_prior(str(broken), "a")
    torch.save(weights, file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(UserError, match="not a pipeline that loads"):
        load_image_prior(str(broken), "a")


def test_posed_prior_is_the_unet_guided_by_image_and_pose(zero123, path):
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    prior = load_posed_image_prior(zero123, image, path.select(0), 1.0, guidance=3.0)
    assert isinstance(prior, DiffusionPrior) and is_posed_pipeline(str(zero123))
    cameras = path.select([0, 8])
    latents = prior.encode(torch.rand(2, 3, *prior.frame_size)).detach()
    assert prior.decode(latents).shape == (2, 3, *prior.frame_size)
    assert not prior.decode(latents.requires_grad_()).requires_grad
    latents = latents.detach()
    found = prior.predict_noise(latents, 500, cameras)
    turns = relative_turns(path.select(0), cameras, 1.0)
    with torch.no_grad():
        token = prior.projection(torch.cat([prior.embedding.expand(2, -1), turns], 1))[:, None]
        beside = prior.image_latents.expand(2, -1, -1, -1)
        parts = []
        for share in (0.0, 1.0):
            given = torch.cat([latents, share * beside], dim=1)
            level = torch.tensor([500, 500])
            velocity = prior.unet(given, level, encoder_hidden_states=share * token).sample
            parts.append(noise_of_velocity(velocity, latents, float(prior.signal[500])))
    assert torch.allclose(found, parts[0] + 3 * (parts[1] - parts[0]), atol=1e-4)
    still = prior.predict_noise(latents, 500, path.select([0, 0]))
    assert torch.allclose(still[0], found[0], atol=1e-4) and not torch.equal(still[1], found[1])


def test_turns_are_around_what_the_input_camera_looks_at():
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    base = Cameras(torch.eye(4)[None], lens, 32, 48)
    orbit = make_path("orbit", base, 9, 30)  # around what is 1 ahead
    turns = relative_turns(base, orbit, 1.0)
    assert torch.allclose(turns[0], torch.tensor([0.0, 0, 1, 0]), atol=1e-6)
    right = float(orbit.positions[-1, 0]) > 0
    assert float(turns[-1, 1]) == pytest.approx(0.5 if right else -0.5, abs=1e-3)
    assert turns[:, [0, 3]].abs().max() < 1e-4
    up = make_path("pedestal", base, 9, 0.5)
    assert torch.sign(relative_turns(base, up, 1.0)[-1, 0]) == torch.sign(up.positions[-1, 1])
    nearer = make_path("dolly", base, 9, 0.4)
    assert float(relative_turns(base, nearer, 1.0)[-1, 3]) == pytest.approx(-0.4 * 1.85, abs=1e-3)


def test_posed_pipelines_that_do_not_fit_are_refused(zero123, stable_diffusion, tmp_path, path):
    image = torch.rand(3, 32, 48)
    with pytest.raises(UserError, match="has no image_encoder/"):
        load_posed_image_prior(stable_diffusion, image, path.select(0), 1.0)
    broken = tmp_path / "broken"
    shutil.copytree(zero123, broken)
    shutil.rmtree(broken / "unet")
    shutil.copytree(stable_diffusion / "unet", broken / "unet")
    with pytest.raises(UserError, match="takes 4 channels; expected 8"):
        load_posed_image_prior(broken, image, path.select(0), 1.0)
    weights = {"projection.weight": torch.rand(12, 9), "projection.bias": torch.rand(12)}
    shutil.copytree(zero123, broken, dirs_exist_ok=True)
    save_file(weights, broken / "cc_projection" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="takes 9 values; expected 10"):
        load_posed_image_prior(broken, image, path.select(0), 1.0)
    (broken / "cc_projection" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="not a pipeline that loads"):
        load_posed_image_prior(broken, image, path.select(0), 1.0)
