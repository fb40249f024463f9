"""Sampling against the stock pipeline on its own, against guidance worked out by hand, and an oracle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from models.autoencoders.cogvideox import CogVideoXAutoencoder, CogVideoXAutoencoderConfig
from models.video.base import VideoBase, VideoModelConfig, create_base
from models.video.guidance import GuidanceConfig, Term, guidance_terms
from models.video.model import VideoModel
from models.video.sampling import SamplingConfig, SamplingStep, VideoSampler

CONFIG = VideoModelConfig(
    latent_channels=4,
    heads=2,
    head_width=16,
    layers=2,
    time_width=16,
    text_width=8,
    text_tokens=3,
    num_frames=9,
    height=32,
    width=48,
    learned_positions=False,
)
FIVE = SamplingConfig(steps=5)


def random_base(seed: int = 0) -> VideoBase:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = create_base(CONFIG)
        for parameter in base.transformer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return base


@pytest.fixture(scope="module")
def base() -> VideoBase:
    return random_base()


@pytest.fixture
def sampler(base: VideoBase) -> VideoSampler:
    return VideoSampler(VideoModel(base, train_base=False))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def cameras(batch: int, num_views: int = 9) -> Cameras:
    pose = torch.eye(4).repeat(batch, num_views, 1, 1)
    pose[..., 0, 3] = torch.linspace(0, 0.3, num_views)
    lens = intrinsics_from_fov(45.0, 32, 48).expand(batch, num_views, 3, 3)
    return Cameras(pose, lens, 32, 48)


def stock_pipeline(base: VideoBase, vae: Any) -> Any:
    from diffusers import CogVideoXImageToVideoPipeline

    pipeline = CogVideoXImageToVideoPipeline(None, None, vae, base.transformer, base.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_it_gives_what_the_stock_pipeline_gives(base, sampler, guidance):
    """diffusers alone, with its autoencoder, its guidance and no line of ours."""
    torch.manual_seed(0)
    autoencoder = CogVideoXAutoencoder.from_config(
        CogVideoXAutoencoderConfig(
            latent_channels=4, block_out_channels=(4, 4, 4, 4), norm_groups=2
        )
    ).eval()
    autoencoder.vae.register_to_config(scaling_factor=0.7)
    image, prompt, negative = torch.rand(1, 3, 32, 48), normal(3, 8, seed=1), normal(3, 8, seed=2)
    stock = stock_pipeline(base, autoencoder.vae)
    encode = autoencoder.vae.encode  # the stock pipeline samples the image's latents; take the mean
    autoencoder.vae.encode = lambda x: SimpleNamespace(latents=encode(x).latent_dist.mode())
    expected = stock(
        image=image,
        prompt_embeds=prompt[None],
        negative_prompt_embeds=negative[None],
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=5,
        guidance_scale=guidance,
        generator=generators(7),
        output_type="latent",
    ).frames
    del autoencoder.vae.encode
    with torch.no_grad():
        latents = autoencoder.encode(image[:, None])
    found = sampler.sample(
        latents,
        9,
        generators(7),
        SamplingConfig(steps=5, guidance=GuidanceConfig(text=guidance)),
        text=prompt,
        negative_text=negative,
    )
    assert found.shape == (1, 4, 3, 4, 6)
    assert torch.allclose(found.transpose(1, 2), expected, atol=1e-5)
    assert not torch.allclose(found[:, :, :1], latents, atol=0.1)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm"])
def test_an_oracle_is_followed_to_the_truth(base, scheduler):
    """With a model that knows the clean latents, sampling must end at them."""
    truth = normal(2, 4, 3, 4, 6)

    class Oracle(VideoModel):
        def forward(
            self, noisy, image_latents, timesteps, text=None, cameras=None, camera_mask=None
        ):
            signal = base.scheduler.alphas_cumprod[timesteps][:, None, None, None, None].float()
            noise = (noisy - signal.sqrt() * truth) / (1 - signal).sqrt()
            return signal.sqrt() * noise - (1 - signal).sqrt() * truth

    steps: list[SamplingStep] = []
    config = SamplingConfig(steps=20, scheduler=scheduler)
    found = VideoSampler(Oracle(base, train_base=False)).sample(
        truth[:, :, :1], 9, generators(0, 1), config, on_step=steps.append
    )
    assert torch.allclose(found, truth, atol=1e-3)
    assert [(step.done, step.total) for step in steps] == [(n, 20) for n in range(1, 21)]
    for step in steps:
        assert torch.allclose(step.clean, truth, atol=2e-3)


class ByParts(VideoModel):
    """Answers with a number that says what it was given: 1 image, 2 cameras, 4 the prompt."""

    def __init__(self, base: VideoBase) -> None:
        super().__init__(base, train_base=False)
        self.sizes: list[int] = []

    def forward(self, noisy, image_latents, timesteps, text=None, cameras=None, camera_mask=None):
        self.sizes.append(len(noisy))
        given = (image_latents.flatten(1).abs().sum(1) > 0).float()
        if cameras is not None:
            assert len(cameras.world_to_camera) == len(noisy)
            given = given + (2 if camera_mask is None else 2 * camera_mask)
        assert text is not None
        given = given + 4 * (text[:, 0, 0] == 1)
        return given[:, None, None, None, None].expand_as(noisy)


@pytest.mark.parametrize("evaluation", ["batched", "sequential"])
@pytest.mark.parametrize(
    ("scales", "num_predictions"),
    [
        ({}, 1),
        ({"image": 2, "camera": 2, "text": 2}, 2),
        ({"camera": 3}, 3),
        ({"image": 1.5, "camera": 3, "text": 6}, 4),
        ({"camera": 0, "text": 0}, 1),
    ],
)
def test_guidance_adds_up_what_each_condition_changes(base, evaluation, scales, num_predictions):
    model = ByParts(base)
    sampler = VideoSampler(model)
    guidance = GuidanceConfig(**scales, evaluation=evaluation)
    seen = []
    sampler.sample(
        torch.ones(2, 4, 1, 4, 6),
        9,
        generators(0, 1),
        SamplingConfig(steps=1, guidance=guidance),
        cameras=cameras(2),
        text=torch.ones(3, 8),
        negative_text=torch.zeros(3, 8),
        on_step=lambda step: seen.append(sampler.guided.latest),
    )
    expected = guidance.image * 1 + guidance.camera * 2 + guidance.text * 4
    assert torch.allclose(seen[0].velocity, torch.tensor(expected))
    batched = [2 * num_predictions]
    assert model.sizes == (batched if evaluation == "batched" else [2] * num_predictions)


def test_without_a_condition_its_scale_does_not_count():
    plain = GuidanceConfig(image=2, camera=5, text=7)
    terms = guidance_terms(plain, has_cameras=False, has_text=False)
    assert terms == (Term(-1.0, False, False, True), Term(2.0, True, False, True))
    for has_cameras in (False, True):
        for has_text in (False, True):
            given = guidance_terms(plain, has_cameras=has_cameras, has_text=has_text)
            assert sum(term.weight for term in given) == pytest.approx(1)


def test_a_clip_depends_on_its_own_seed_alone(sampler):
    image = normal(3, 4, 1, 4, 6)
    together = sampler.sample(image, 9, generators(1, 2, 3), FIVE)
    for number, seed in enumerate((1, 2, 3)):
        alone = sampler.sample(image[number : number + 1], 9, generators(seed), FIVE)
        assert torch.allclose(alone[0], together[number], atol=1e-5)
    again = sampler.sample(image, 9, generators(1, 2, 3), FIVE)
    assert torch.equal(again, together)
    other = sampler.sample(image, 9, generators(1, 5, 3), FIVE)
    assert torch.equal(other[0], together[0]) and not torch.allclose(
        other[1], together[1], atol=0.1
    )


def test_repeated_image_conditioning_reaches_the_model(base, sampler):
    """A base that was trained with the image on every frame is given it on every frame."""
    from dataclasses import replace

    repeat = replace(base, layout=base.layout.model_copy(update={"image_conditioning": "repeat"}))
    image = normal(1, 4, 1, 4, 6)
    other = VideoSampler(VideoModel(repeat, train_base=False)).sample(image, 9, generators(0), FIVE)
    assert not torch.allclose(other, sampler.sample(image, 9, generators(0), FIVE), atol=0.1)


def test_weights_kept_off_the_accelerator_give_the_same(sampler):
    """The CPU in the place of the accelerator: weights come and go, the result stays."""
    image = normal(1, 4, 1, 4, 6)
    expected = sampler.sample(image, 9, generators(0), FIVE)
    sampler.offload("model", "cpu")
    assert torch.equal(sampler.sample(image, 9, generators(0), FIVE), expected)


def test_weights_loaded_layer_by_layer_give_the_same():
    """Between calls no weight of model or base is in memory that counts."""
    sampler = VideoSampler(VideoModel(random_base(3), train_base=False))
    image = normal(1, 4, 1, 4, 6)
    expected = sampler.sample(image, 9, generators(0), FIVE)
    accelerate.cpu_offload(sampler.guided, torch.device("cpu"))
    assert {p.device.type for p in sampler.model.base.transformer.parameters()} == {"meta"}
    assert torch.equal(sampler.sample(image, 9, generators(0), FIVE), expected)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_offload_needs_an_accelerator(sampler, mode):
    with pytest.raises(UserError, match="this machine has none"):
        sampler.offload(mode)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_offload_on_a_gpu_gives_what_the_cpu_gives(mode):
    sampler = VideoSampler(VideoModel(random_base(3), train_base=False))
    image = normal(1, 4, 1, 4, 6)
    expected = sampler.sample(image, 9, generators(0), FIVE)
    sampler.offload(mode)
    found = sampler.sample(image, 9, generators(0), FIVE)
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), expected, atol=1e-3)


def test_prompts_are_encoded_by_the_text_encoder(base):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {word: number for number, word in enumerate(["<pad>", "</s>", "a", "street", "cat"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    torch.manual_seed(0)
    encoder = T5EncoderModel(
        T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).eval()
    sampler = VideoSampler(VideoModel(base, train_base=False), text_encoder=encoder, tokenizer=fast)
    found = sampler.encode_text("a street")
    with torch.no_grad():
        expected = encoder(torch.tensor([[2, 3, 0]]))[0][0]
    assert torch.allclose(found, expected, atol=1e-6)
    image = normal(1, 4, 1, 4, 6)
    with_text = sampler.sample(image, 9, generators(0), FIVE, text=found)
    assert not torch.allclose(with_text, sampler.sample(image, 9, generators(0), FIVE), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": SamplingConfig(steps=30)}, "steps is 30.* use 25 or 40"),
        ({"config": SamplingConfig(steps=1001)}, "use 1000$"),
        ({"num_frames": 10}, "8k\\+1"),
        ({"generators": generators(0, 1)}, "1 images but 2 generators"),
        ({"cameras": cameras(1, 17)}, "17 cameras but 9 frames"),
        ({"cameras": cameras(1).resize(64, 96)}, "64x96; the image latents are of 32x48"),
        ({"cameras": cameras(1)}, "no camera branches"),
        ({"text": torch.zeros(4, 8)}, "text embedding is \\(4, 8\\).*\\(3, 8\\)"),
        ({"negative_text": torch.zeros(2, 8)}, "text embedding is \\(2, 8\\)"),
        ({"image_latents": torch.full((1, 4, 1, 4, 6), torch.nan)}, "NaN"),
    ],
)
def test_what_does_not_fit_is_one_sentence(sampler, changes, message):
    call: dict[str, Any] = {
        "image_latents": normal(1, 4, 1, 4, 6),
        "num_frames": 9,
        "generators": generators(0),
        "config": FIVE,
        **changes,
    }
    with pytest.raises(UserError, match=message):
        sampler.sample(**call)


def test_a_prompt_without_a_text_encoder_is_refused(sampler):
    with pytest.raises(UserError, match="no text encoder"):
        sampler.encode_text("a street")
