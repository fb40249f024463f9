from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from configs.errors import UserError
from models.video.base import (
    BASE_FILE,
    VideoBase,
    VideoModelConfig,
    create_base,
    create_scheduler,
    load_base,
    save_base,
)
from models.video.model import VideoModel
from models.video.positions import rotary_embedding

NewBase = Callable[..., VideoBase]
Inputs = tuple[Tensor, Tensor, Tensor]


def test_full_size_is_cogvideox_5b() -> None:
    with torch.device("meta"):
        base = create_base(VideoModelConfig())
    config = base.transformer.config
    assert (config.num_layers, config.num_attention_heads, config.in_channels) == (42, 48, 32)
    assert (config.sample_frames, config.sample_height, config.sample_width) == (49, 60, 90)
    # Twelve d^2 weights of attention and MLP, their biases and norms, two modulations of 6 d, per block.
    d, time, text = 3072, 512, 4096
    block = 12 * d * d + 9 * d + 2 * 128 + 2 * (6 * d * (time + 1) + 2 * d)
    ends = 32 * 4 * d + d + text * d + d + d * time + time + time * time + time
    ends += 2 * d + 2 * d * (time + 1) + 2 * d + d * 64 + 64
    assert sum(p.numel() for p in base.transformer.parameters()) == 42 * block + ends


def test_a_new_base_predicts_zero_and_learns_every_weight(
    video_inputs: Inputs, tiny_video: VideoModelConfig
) -> None:
    torch.manual_seed(0)
    model = VideoModel(create_base(tiny_video), train_base=True)
    noisy, image, timesteps = video_inputs
    assert (model(noisy, image, timesteps) == 0).all()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(4):
        optimizer.zero_grad()
        (model(noisy, image, timesteps) - noisy).square().mean().backward()
        optimizer.step()
    # The zero text embedding gives its projection's weight nothing to learn from, and the last block's text
    # is never read.
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"transformer.patch_embed.text_proj.weight"}


def test_forward_is_the_stock_transformers(new_video_base: NewBase, video_inputs: Inputs) -> None:
    base = new_video_base()
    noisy, image, timesteps = video_inputs
    text = torch.randn(2, 2, 8)
    found = VideoModel(base, train_base=False)(noisy, image, timesteps, text)
    padded = torch.cat([image, torch.zeros(2, 4, 2, 4, 6)], dim=2)
    expected = base.transformer(
        hidden_states=torch.cat([noisy, padded], dim=1).permute(0, 2, 1, 3, 4),
        encoder_hidden_states=text,
        timestep=timesteps,
        image_rotary_emb=rotary_embedding(base.transformer.config, 3, 4, 6, noisy.device),
    ).sample
    assert torch.equal(found, expected.permute(0, 2, 1, 3, 4))


def test_repeated_image_reaches_every_frame(new_video_base: NewBase, video_inputs: Inputs) -> None:
    noisy, image, _ = video_inputs
    placed = new_video_base(image_conditioning="repeat").transformer_input(noisy, image)
    assert torch.equal(placed[:, :, :4], noisy.transpose(1, 2))
    assert all(torch.equal(placed[:, frame, 4:], image[:, :, 0]) for frame in range(3))


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (6, 4), (10, 6), (4, 14)])
def test_rotary_embedding_is_the_stock_pipelines(
    size: tuple[int, int], new_video_base: NewBase
) -> None:
    from diffusers import CogVideoXImageToVideoPipeline

    transformer = new_video_base().transformer
    pipeline = type("Pipeline", (), {"transformer": transformer, "vae_scale_factor_spatial": 8})()
    expected = CogVideoXImageToVideoPipeline._prepare_rotary_positional_embeddings(
        pipeline, 8 * size[0], 8 * size[1], 3, torch.device("cpu")
    )
    found = rotary_embedding(transformer.config, 3, *size, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_schedule_ends_in_pure_noise() -> None:
    scheduler = create_scheduler()
    assert scheduler.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    # With the true velocity, one step from pure noise recovers the sample.
    clean, noise = torch.randn(2, 1, 4, 2, 2, 2)
    velocity = scheduler.get_velocity(clean, noise, torch.tensor([999]))
    torch.testing.assert_close(velocity, -clean)


def test_frozen_base_is_not_part_of_the_module(
    new_video_base: NewBase, video_inputs: Inputs
) -> None:
    model = VideoModel(new_video_base(), train_base=False)
    assert not list(model.parameters()) and not model.state_dict()
    assert not any(p.requires_grad for p in model.base.transformer.parameters())
    model.eval()
    assert not model.base.transformer.training
    model.train()
    assert model.base.transformer.training
    model.bfloat16()
    assert model.base.dtype == torch.bfloat16
    noisy, image, timesteps = video_inputs
    assert model(noisy, image, timesteps).dtype == torch.float32


def test_trains_after_sampling(new_video_base: NewBase, video_inputs: Inputs) -> None:
    model = VideoModel(new_video_base(), train_base=True)
    with torch.inference_mode():
        sampled = model(*video_inputs)
    trained = model(*video_inputs)
    trained.square().mean().backward()
    assert torch.equal(sampled, trained)


def test_gradient_checkpointing_runs_blocks_again_and_changes_nothing(
    new_video_base: NewBase, video_inputs: Inputs
) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = VideoModel(
            new_video_base(), train_base=True, gradient_checkpointing=checkpointing
        ).train()
        count: list[int] = []
        for block in model.transformer.transformer_blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        model(*video_inputs).square().mean().backward()
        calls.append(len(count))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert calls == [3, 6]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_base_survives_a_round_trip(tmp_path: Path, new_video_base: NewBase) -> None:
    base = new_video_base(image_conditioning="repeat", snr_shift_scale=2.0)
    save_base(base, tmp_path / "base")
    save_base(base, tmp_path / "base")  # over itself
    loaded = load_base(tmp_path / "base")
    assert loaded.layout == base.layout
    assert loaded.scheduler.config.snr_shift_scale == 2.0
    state, expected = loaded.transformer.state_dict(), base.transformer.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert {p.name for p in (tmp_path / "base").iterdir()} == {
        "transformer",
        "scheduler",
        BASE_FILE,
    }


def test_half_precision_file_and_a_folder_without_our_file(
    tmp_path: Path, new_video_base: NewBase
) -> None:
    base = new_video_base()
    save_base(base, tmp_path / "base", torch.float16)
    (tmp_path / "base" / BASE_FILE).unlink()
    loaded = load_base(tmp_path / "base")
    assert loaded.layout.image_conditioning == "first"
    assert loaded.dtype == torch.float32
    weight = loaded.transformer.proj_out.weight
    assert torch.equal(weight, base.transformer.proj_out.weight.half().float())
    assert load_base(tmp_path / "base", torch.bfloat16).dtype == torch.bfloat16


def test_plain_diffusers_opens_the_folder(tmp_path: Path, new_video_base: NewBase) -> None:
    from diffusers import CogVideoXDPMScheduler, CogVideoXTransformer3DModel

    base = new_video_base()
    save_base(base, tmp_path)
    opened = CogVideoXTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer")
    assert torch.equal(opened.proj_out.weight, base.transformer.proj_out.weight)
    scheduler = CogVideoXDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert scheduler.config.rescale_betas_zero_snr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "UNet2DModel"}, "holds a 'UNet2DModel'"),
        ({"in_channels": 4}, "not an image-to-video model"),
        ({"patch_size_t": 2}, "CogVideoX 1.5"),
        ({"use_rotary_positional_embeddings": False}, "no rotary embeddings"),
        ({"num_layers": 4}, "missing keys"),
    ],
)
def test_other_transformers_are_refused(
    tmp_path: Path, changes: dict[str, object], sentence: str, new_video_base: NewBase
) -> None:
    save_base(new_video_base(), tmp_path)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=sentence):
        load_base(tmp_path)


def test_missing_or_damaged_weights_are_refused(tmp_path: Path, new_video_base: NewBase) -> None:
    with pytest.raises(UserError, match="is missing; expected the folder of a video base"):
        load_base(tmp_path / "nowhere")
    base = new_video_base()
    base.transformer.proj_out.weight.data[0, 0] = float("nan")
    save_base(base, tmp_path)
    with pytest.raises(UserError, match="NaN or infinite values in 'proj_out.weight'"):
        load_base(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a loadable CogVideoX transformer"):
        load_base(tmp_path)
    (tmp_path / BASE_FILE).write_text('{"image_conditioning": "last"}')
    weights.unlink()
    with pytest.raises(UserError):
        load_base(tmp_path)


def test_inputs_of_another_size_are_refused(new_video_base: NewBase, video_inputs: Inputs) -> None:
    model = VideoModel(new_video_base(), train_base=False)
    _, image, timesteps = video_inputs
    with pytest.raises(UserError, match="latents have 5 channels; this base takes 4"):
        model(torch.zeros(2, 5, 3, 4, 6), torch.zeros(2, 5, 1, 4, 6), timesteps)
    with pytest.raises(UserError, match="do not divide into patches of 2"):
        model(torch.zeros(2, 4, 3, 5, 6), torch.zeros(2, 4, 1, 5, 6), timesteps)
    fixed = VideoModel(new_video_base(learned_positions=True), train_base=False)
    with pytest.raises(UserError, match="resize the frames to 32x48"):
        fixed(torch.zeros(2, 4, 3, 8, 12), torch.zeros(2, 4, 1, 8, 12), timesteps)
    assert fixed(torch.zeros(2, 4, 5, 4, 6), image, timesteps).shape == (2, 4, 5, 4, 6)


@pytest.mark.parametrize(
    "changes", [{"head_width": 24}, {"num_frames": 13}, {"height": 40}, {"patch": 3}]
)
def test_sizes_that_do_not_work_are_refused(
    changes: dict[str, int], tiny_video: VideoModelConfig
) -> None:
    with pytest.raises(ValidationError):
        VideoModelConfig(**(tiny_video.model_dump() | changes))


def test_a_base_saved_again_says_nothing_of_where_it_was(
    tiny_video: VideoModelConfig, tmp_path: Path
) -> None:
    save_base(create_base(tiny_video), tmp_path / "first")
    save_base(load_base(tmp_path / "first"), tmp_path / "second")
    first, second = (sorted((tmp_path / name).rglob("*.json")) for name in ("first", "second"))
    assert [path.read_text() for path in first] == [path.read_text() for path in second]


def test_saved_weights_are_as_readable_as_their_config(
    tmp_path: Path, new_video_base: NewBase
) -> None:
    save_base(new_video_base(), tmp_path)
    modes = {path.stat().st_mode for path in (tmp_path / "transformer").iterdir()}
    assert len(modes) == 1
