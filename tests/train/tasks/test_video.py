"""The video task: what it asks of a model, what trains, and validation held to a model that knows the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import load_config
from data.cameras import Cameras
from data.clip_windows import WindowConfig
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.autoencoders.identity import latent_probes
from models.autoencoders.latent_shards import write_latents
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.video.base import (
    VideoModelConfig,
    create_base,
    create_scheduler,
    load_base,
    save_base,
)
from models.video.camera_branch_files import load_branches
from models.video.camera_branches import CameraBranches
from models.video.text_encoder import TextEncoder
from models.video.text_shards import write_text
from train.run import run
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig, VideoTask

ROOT = Path(__file__).resolve().parents[3]
SCENES = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0, supersampling=1)
BASE = VideoModelConfig(
    latent_channels=8,
    heads=2,
    head_width=16,
    layers=2,
    patch=2,
    time_width=16,
    text_width=8,
    text_tokens=1,
    num_frames=9,
    height=32,
    width=48,
    learned_positions=False,
)
FORWARDS = WindowConfig(num_frames=9, backwards=False, mirrored=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shards of four small clips, without and with latents, and a linear codec fitted to them."""
    root = tmp_path_factory.mktemp("video")
    clips = [make_clip(seed, SCENES) for seed in range(4)]
    frames = torch.stack([clip.frames for clip in clips])
    codec = LinearCodec(LinearCodecConfig(latent_channels=8))
    codec.fit(frames)
    codec.standardise(frames)
    codec.save_pretrained(root / "codec")
    write_shards(clips, root / "frames")
    index = write_shards(clips, root / "stored")
    write_latents(index, codec, root / "codec", WindowConfig(num_frames=9))
    return {name: root / name for name in ("codec", "frames", "stored")} | {"root": root}


def make_config(folders: dict[str, Path], **changes: object) -> VideoConfig:
    settings = {
        "new_base": BASE,
        "train_base": True,
        "autoencoder": folders["codec"],
        "data": [folders["stored"]],
        "validation_data": folders["frames"],
        "windows": {"num_frames": 9},
        "batch_size": 3,
        "num_workers": 0,
        "validation": {"num_clips": 2, "num_scenes": 1, "sampling": {"steps": 2}},
    }
    return VideoConfig.model_validate(settings | changes)


class Recorder(nn.Module):
    """Stands for the video model: keeps what it is given, and predicts what `answer` says."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer = answer
        self.base = SimpleNamespace(scheduler=create_scheduler())
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        noisy: Tensor,
        image: Tensor,
        timesteps: Tensor,
        text: Tensor | None = None,
        cameras: Cameras | None = None,
        camera_mask: Tensor | None = None,
    ) -> Tensor:
        self.calls.append(
            {"noisy": noisy, "image": image, "timesteps": timesteps, "text": text}
            | {"cameras": cameras, "mask": camera_mask}
        )
        return torch.zeros_like(noisy) if self.answer is None else self.answer(noisy, timesteps)


def signal_at(timesteps: Tensor) -> Tensor:
    """Share of signal power, from the schedule's definition: scaled linear betas, zero at the end."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return (root**2)[timesteps].float()[:, None, None, None, None]


def velocity_to(clean: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The velocity that leads from noisy to clean latents: v = a e - s x, with e = (noisy - a x) / s."""
    signal = signal_at(timesteps)
    a, s = signal.sqrt(), (1 - signal).sqrt()
    return a * (noisy - a * clean) / s - s * clean


def first_batch(task: VideoTask) -> dict[str, Tensor]:
    return next(iter(task.loader(rank=0, world_size=1, start=0)))


@pytest.mark.parametrize("source", ["frames", "stored"])
def test_the_true_velocity_has_no_loss(folders, source: str) -> None:
    task = make_config(folders, data=[folders[source]]).create(seed=0)
    batch = first_batch(task)
    assert ("latents" in batch) == (source == "stored")
    clean = task.latents(batch)
    oracle = Recorder(lambda noisy, timesteps: velocity_to(clean, noisy, timesteps))
    parts = task.losses(oracle, batch, torch.Generator().manual_seed(0))
    assert parts["loss"] < 1e-6
    zero = task.losses(Recorder(), batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(zero["loss"], (zero["first"] + 2 * zero["rest"]) / 3)
    assert zero["loss"] > 0.3


def test_stored_latents_are_those_of_the_frames(folders) -> None:
    plain = {"windows": FORWARDS.model_dump()}
    stored = make_config(folders, **plain).create(seed=0)
    encoded = make_config(folders, latents="encode", **plain).create(seed=0)
    one, two = first_batch(stored), first_batch(encoded)
    torch.testing.assert_close(stored.latents(one), encoded.latents(two), atol=3e-3, rtol=1e-3)
    for name in ("world_to_camera", "intrinsics"):
        torch.testing.assert_close(one[name], two[name])


def test_image_dropout_and_noise_reach_the_model(folders) -> None:
    def given(**changes: object) -> tuple[Tensor, Tensor]:
        task = make_config(folders, **changes).create(seed=0)
        model, batch = Recorder(), first_batch(task)
        task.losses(model, batch, torch.Generator().manual_seed(0))
        return model.calls[0]["image"], task.latents(batch)[:, :, :1]

    image, first = given(image_dropout=0.0, image_noise=None)
    assert torch.equal(image, first)
    image, _ = given(image_dropout=1.0)
    assert (image == 0).all()
    image, first = given(image_dropout=0.0, image_noise=(-3.0, 0.0))
    assert float((image - first).std()) == pytest.approx(math.exp(-3), rel=0.1)


def test_a_bare_base_gets_no_cameras(folders) -> None:
    task = make_config(folders).create(seed=0)
    model = Recorder()
    task.losses(model, first_batch(task), torch.Generator().manual_seed(0))
    assert model.calls[0]["cameras"] is None and model.calls[0]["mask"] is None


@pytest.mark.parametrize("active", [True, False])
def test_gradient_checkpointing_computes_blocks_twice(folders, active: bool) -> None:
    """The proof that memory is saved: a checkpointed block runs again in the backward pass."""
    task = make_config(folders, gradient_checkpointing=active).create(seed=0)
    model = task.build().train()
    runs = [0, 0]
    for number, block in enumerate(model.base.transformer.transformer_blocks):

        def count(*_: object, number: int = number) -> None:
            runs[number] += 1

        block.attn1.register_forward_hook(count)
    task.losses(model, first_batch(task), torch.Generator())["loss"].backward()
    assert runs == ([2, 2] if active else [1, 1])


def test_validation_is_repeatable_and_shows_no_motion_where_there_is_none(folders) -> None:
    task = make_config(folders).create(seed=0)
    model = task.build().eval()
    one, two = task.validate(model), task.validate(model)
    assert one.scalars == two.scalars
    levels = {f"loss_at_{t}" for t in (250, 500, 750, 999)}
    assert set(one.scalars) == {"loss", "psnr", "movement"} | levels
    assert one.images["scene_0"].shape == (3, 2 * 32, 5 * 48)
    assert torch.equal(one.images["scene_0"], two.images["scene_0"])


def test_a_run_trains_exports_and_goes_on(folders, tmp_path: Path) -> None:
    """Through the loop itself: the loss falls, and the exported base opens again."""
    task = make_config(folders, data=[folders["frames"]], image_noise=None, batch_size=4)
    recipe = Recipe.model_validate(
        {
            "name": "base",
            "task": task.model_dump() | {"validation": {"num_clips": 2, "num_scenes": 0}},
            "optimizer": {"lr": 1e-2},
            "schedule": {"warmup_steps": 5},
            "loop": {"steps": 20, "validate_every": 20, "save_every": 20, "ema_decay": 0.8},
            "engine": {"threads": 1},
            "runs_root": tmp_path,
        }
    )
    assert run(recipe) == 0
    lines = (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()

    found = [json.loads(x)["scalars"]["loss"] for x in lines if '"validation"' in x]
    assert found[-1] < 0.95 * found[0]
    again = make_config(folders, new_base=None, base=tmp_path / "base" / "weights" / "base").create(
        seed=1
    )
    model = again.build()
    losses = again.validate(model.eval()).scalars
    assert losses["loss"] == pytest.approx(found[-1], rel=0.02)
    assert model.base.latent_probes == latent_probes(again.autoencoder)


def test_a_base_that_trains_on_tells_whose_latents_it_learnt(folders, tmp_path: Path) -> None:
    save_base(create_base(BASE), tmp_path / "base")
    silent = load_base(tmp_path / "base")
    assert silent.latent_probes is None
    task = make_config(folders, new_base=None, base=tmp_path / "base").create(seed=0)
    assert task.build().base.latent_probes == latent_probes(task.autoencoder)


def test_mistakes_are_told(folders, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="either base"):
        make_config(folders, base=tmp_path)
    with pytest.raises(ValidationError, match="nothing trains"):
        make_config(folders, new_base=None, base=tmp_path, train_base=False)
    with pytest.raises(UserError, match=r"no stored latents; make them with .* prepare latents"):
        make_config(folders, data=[folders["frames"]], latents="stored").create(seed=0)
    other = LinearCodec.from_pretrained(folders["codec"])
    with torch.no_grad():
        other.first.analysis.weight.mul_(2)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"its autoencoder is \w+, but this run's is \w+"):
        make_config(folders, autoencoder=tmp_path / "other").create(seed=0)
    strided = make_config(folders, windows={"num_frames": 9, "strides": [2]}).create(seed=0)
    with pytest.raises(UserError, match=r"no stored latents .* that task\.windows allows"):
        first_batch(strided)
    narrow = BASE.model_copy(update={"latent_channels": 4})
    with pytest.raises(
        UserError, match="reads latents of 4 channels, but the autoencoder's have 8"
    ):
        make_config(folders, new_base=narrow).create(seed=0).build()


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "configs").glob("*/video_*.yaml")),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_recipes_are_valid(path: Path) -> None:
    assert load_config(path, [], Recipe).task.kind == "video"


BRANCHES = {"control_blocks": 1, "lora_rank": 4, "encoder_width": 8}


@pytest.fixture(scope="module")
def base_folder(folders) -> Path:
    """A base whose weights are all at work, so that nothing is equal for want of signal."""
    torch.manual_seed(0)
    base = create_base(BASE)
    for parameter in base.transformer.parameters():
        nn.init.normal_(parameter, std=0.1)
    save_base(base, folders["root"] / "base")
    return folders["root"] / "base"


def steered(folders: dict[str, Path], base: Path, **changes: object) -> VideoConfig:
    settings = {"new_base": None, "base": base, "train_base": False, "branches": BRANCHES}
    return make_config(folders, **(settings | changes))


def test_new_branches_change_no_loss_and_alone_get_gradients(folders, base_folder) -> None:
    task = steered(folders, base_folder).create(seed=0)
    model, batch = task.build(), first_batch(task)
    bare = make_config(folders, new_base=None, base=base_folder).create(seed=0)
    parts = task.losses(model, batch, torch.Generator().manual_seed(1))
    plain = bare.losses(bare.build(), batch, torch.Generator().manual_seed(1))
    assert torch.equal(parts["loss"], plain["loss"])
    parts["loss"].backward()
    assert all(name.startswith("branches.") for name, _ in model.named_parameters())
    # What is behind a zero layer learns from the second step on; the zero layers learn from the first.
    learning = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("control" in name for name in learning)
    assert any("fusion" in name for name in learning)
    assert any("lora_B" in name for name in learning)
    assert all(p.grad is None for p in model.base.transformer.parameters() if not p.requires_grad)


def test_cameras_are_dropped_for_some_samples(folders, base_folder) -> None:
    task = steered(folders, base_folder, camera_dropout=0.5, batch_size=4).create(seed=0)
    batch, model = first_batch(task), Recorder()
    for seed in range(20):
        task.losses(model, batch, torch.Generator().manual_seed(seed))
    kept = torch.stack([call["mask"] for call in model.calls])
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.equal(model.calls[0]["cameras"].world_to_camera, batch["world_to_camera"])


def test_validation_of_a_model_that_knows_the_answer(folders, base_folder) -> None:
    """Sampling, guidance, decoding and agreement together: true velocities lead to videos that agree."""
    validation = {"num_clips": 0, "num_scenes": 2, "travel": [0.5, 0.8], "sampling": {"steps": 4}}
    task = steered(folders, base_folder, validation=validation).create(seed=0)
    model = task.build().eval()
    clips = [clip for pair in task.validation.pairs for clip in pair]
    clean = task.autoencoder.encode(torch.stack([clip.frames for clip in clips]))
    paths = torch.stack([clip.cameras.world_to_camera for clip in clips])

    def answer(noisy, image, timesteps, text=None, cameras=None, mask=None):  # type: ignore[no-untyped-def]
        gaps = (cameras.world_to_camera[:, None] - paths).abs().amax(dim=(2, 3, 4))
        return velocity_to(clean[gaps.argmin(dim=1)], noisy, timesteps)

    model.forward = answer
    knowing = task.validate(model)
    assert knowing.scalars["motion_share"] == pytest.approx(1, abs=0.25)
    assert knowing.scalars["two_way_choice"] == 1
    assert knowing.scalars["matched_minus_crossed_db"] > 1
    assert knowing.scalars["movement"] == pytest.approx(1, abs=0.3)
    assert knowing.images["scene_0"].shape == (3, 4 * 32, 5 * 48)


def test_branches_are_exported_and_gone_on_from(folders, base_folder, tmp_path: Path) -> None:
    task = steered(folders, base_folder).create(seed=0)
    model = task.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    task.export(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["branches"]
    again = steered(folders, base_folder, branches_from=tmp_path / "branches").create(seed=1)
    found = dict(again.build().named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(found[name], parameter)
    other = steered(
        folders,
        base_folder,
        branches_from=tmp_path / "branches",
        branches=BRANCHES | {"control_blocks": 2},
    )
    with pytest.raises(UserError, match=r"control_blocks is 1, but the recipe's .* is 2"):
        other.create(seed=0).build()


def test_joint_training_trains_base_and_branches(folders, tmp_path: Path) -> None:
    joint = {"branches": ["lora"], "lora_rank": 0, "encoder_width": 8}
    task = make_config(folders, branches=joint).create(seed=0)
    model = task.build()
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"transformer", "branches"}
    # A new base predicts zero whatever it is given; two steps make it listen.
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for seed in range(3):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        task.losses(model, first_batch(task), generator)["loss"].backward()
        optimizer.step()
    assert model.branches.fusion.camera.weight.grad.any()
    task.export(model, tmp_path)
    base = load_base(tmp_path / "base")
    assert load_branches(tmp_path / "branches", base.transformer).config.lora_rank == 0


def test_a_base_trains_on_together_with_its_branches(folders, base_folder, tmp_path: Path) -> None:
    """Base, control and low-rank updates all learn; what is exported predicts what was trained."""
    both = BRANCHES | {"branches": ["control", "lora"]}
    task = steered(folders, base_folder, branches=both, train_base=True).create(seed=0)
    model, batch = task.build(), first_batch(task)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for seed in range(3):
        optimizer.zero_grad()
        task.losses(model, batch, torch.Generator().manual_seed(seed))["loss"].backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    for part in ("transformer.", "branches.control", "branches.lora", "branches.fusion"):
        assert any(name.startswith(part) for name in moved), part
    task.export(model, tmp_path)
    again = steered(
        folders,
        tmp_path / "base",
        branches=both,
        train_base=True,
        branches_from=tmp_path / "branches",
    ).create(seed=1)
    noise = torch.Generator().manual_seed(9)
    expected = task.losses(model, batch, noise)["loss"]
    noise.manual_seed(9)
    assert torch.equal(again.losses(again.build(), batch, noise)["loss"], expected)


def test_the_full_recipe_states_its_sizes() -> None:
    text = (ROOT / "configs" / "full" / "video_camera.yaml").read_text()
    task = load_config(ROOT / "configs" / "full" / "video_camera.yaml", [], Recipe).task
    with torch.device("meta"):
        base = create_base(VideoModelConfig())
        branches = CameraBranches(task.branches, base.transformer)
    parts = [base.transformer, branches, branches.control, branches.lora, branches.fusion]
    for part in parts:
        assert f"{sum(p.numel() for p in part.parameters()):,}" in text


class CountingEncoder(TextEncoder):
    """The embedding of a prompt is its length, that of the empty one -1."""

    def __init__(self) -> None:
        pass

    def encode(self, prompts: Sequence[str], num_tokens: int) -> Tensor:
        values = torch.tensor([float(len(prompt) or -1) for prompt in prompts])
        return values[:, None, None].expand(-1, num_tokens, 8)

    def length(self, prompt: str) -> int:
        return 1


@pytest.fixture(scope="module")
def captioned(folders) -> Path:
    """Shards of two clips, the second without a caption, with text embeddings of one token."""
    clip = make_clip(0, SCENES)
    index = write_shards([replace(clip, caption="a street"), clip], folders["root"] / "captioned")
    weights = folders["root"] / "text_encoder"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    write_text(index, CountingEncoder(), folders["root"], num_tokens=1)
    return index.folder


def test_stored_text_reaches_the_model_and_is_dropped_for_a_share(folders, captioned) -> None:
    def given(**changes: object) -> Tensor:
        task = make_config(folders, data=[captioned], text="text", batch_size=8, **changes).create(
            seed=0
        )
        model = Recorder()
        task.losses(model, first_batch(task), torch.Generator().manual_seed(0))
        return model.calls[0]["text"][:, 0, 0]

    assert sorted(given(text_dropout=0.0).tolist()) == [-1.0] * 4 + [8.0] * 4
    assert (given(text_dropout=1.0) == -1).all()


def test_validation_with_text_has_the_empty_prompts(folders, captioned) -> None:
    validation = {"num_clips": 1, "num_scenes": 0}
    task = make_config(folders, data=[captioned], text="text", validation=validation).create(seed=0)
    assert task.validation.drawing.text is task.validation.text
    model, recorder = task.build().eval(), Recorder()
    model.forward = recorder.forward
    task.validate(model)
    assert len(recorder.calls) == 4
    assert all((call["text"] == -1).all() for call in recorder.calls)


def test_text_of_another_encoder_is_refused(folders, captioned) -> None:
    wide = BASE.model_copy(update={"text_width": 16})
    task = make_config(folders, data=[captioned], text="text", new_base=wide).create(seed=0)
    with pytest.raises(UserError, match=r"'text' are \(1, 8\) .* base takes \(1, 16\)"):
        task.build()
    with pytest.raises(UserError, match="no stored text embeddings 'text'"):
        make_config(folders, text="text").create(seed=0)
