from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from steered_models import COMBINATIONS, TINY, Inputs, NewBase, attached, call, randomise
from torch import Tensor, nn

from configs.errors import UserError
from data.cameras import Cameras
from models.video.camera_branch_files import LORA_FILE, load_branches, save_branches
from models.video.camera_branches import CameraBranches, CameraBranchesConfig
from models.video.camera_encoder import CameraEncoder
from models.video.model import VideoModel
from models.video.positions import rotary_embedding


@pytest.mark.parametrize("config", COMBINATIONS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_new_branches_change_no_bit(
    new_video_base: NewBase,
    video_inputs: Inputs,
    video_cameras: Cameras,
    config: CameraBranchesConfig,
    checkpointing: bool,
) -> None:
    base = new_video_base()
    before = VideoModel(base, train_base=False)(*video_inputs)
    model = attached(base, config, gradient_checkpointing=checkpointing).train()
    assert torch.equal(model(*video_inputs, cameras=video_cameras), before)
    with torch.no_grad():
        assert torch.equal(model(*video_inputs, cameras=video_cameras), before)
    randomise(model)
    assert (model(*video_inputs, cameras=video_cameras) - before).abs().max() > 0.01


@pytest.mark.parametrize("config", COMBINATIONS)
def test_only_branches_get_gradients(
    new_video_base: NewBase,
    video_inputs: Inputs,
    video_cameras: Cameras,
    config: CameraBranchesConfig,
) -> None:
    base = new_video_base()
    originals = dict(base.transformer.named_parameters())
    weights = {name: value.detach().clone() for name, value in originals.items()}
    model = attached(base, config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(*video_inputs, cameras=video_cameras).square().mean().backward()
        optimizer.step()
    # The control branch's exits leave zero first, then its entry; then every parameter learns.
    assert all(p.requires_grad for p in model.parameters())
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    for name, parameter in originals.items():
        assert parameter.grad is None and not parameter.requires_grad
        assert torch.equal(parameter, weights[name])


@pytest.mark.parametrize("config", COMBINATIONS)
def test_gradient_checkpointing_changes_no_gradient(
    new_video_base: NewBase,
    video_inputs: Inputs,
    video_cameras: Cameras,
    config: CameraBranchesConfig,
) -> None:
    gradients, calls = [], []
    mask = torch.tensor([True, False])
    for checkpointing in (False, True):
        model = attached(new_video_base(), config, gradient_checkpointing=checkpointing).train()
        randomise(model)
        count: list[int] = []
        blocks = list(model.base.transformer.transformer_blocks)
        blocks += list(model.branches.control.blocks) if model.branches.control else []
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        loss = model(*video_inputs, cameras=video_cameras, camera_mask=mask).square().mean()
        with (
            torch.no_grad()
        ):  # a pass between forward and backward must not disturb what is run again
            model(*video_inputs)
        loss.backward()
        calls.append(len(count) - 3)
        gradients.append([p.grad for p in model.parameters()])
        assert [g is None for g in gradients[0]] == [g is None for g in gradients[-1]]
    # Without fused tokens the frozen first block has nothing to differentiate.
    assert calls[1] == 2 * calls[0] - (model.branches.fusion is None)
    pairs = list(zip(*gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in pairs if a is not None)


def test_output_and_gradients_are_those_of_the_written_out_model(
    new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    """The paper's equations, block by block, with the low-rank updates merged into the weights."""
    model = attached(
        new_video_base(), TINY.model_copy(update={"lora_targets": ("to_k", "ff.net.2")})
    )
    randomise(model)
    found = model(*video_inputs, cameras=video_cameras)
    found.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    branches = model.branches
    assert branches is not None and branches.lora is not None
    assert branches.control is not None and branches.fusion is not None
    control, fusion, updates = (
        branches.control,
        branches.fusion,
        dict(branches.lora.named_parameters()),
    )
    branches.detach()
    base, plain = model.base, model.base.transformer
    noisy, image, timesteps = video_inputs
    time = plain.time_embedding(plain.time_proj(timesteps))
    tokens = plain.patch_embed(base.no_text(2), base.transformer_input(noisy, image))
    text, visual = tokens[:, :2], tokens[:, 2:]
    rays = video_cameras.plucker()
    rotary = rotary_embedding(plain.config, 3, 4, 6, noisy.device)
    hidden, copied_text, residuals = visual + control.entry(control.encoder(rays)), text, []
    for copied, leave in zip(control.blocks, control.exits, strict=True):
        hidden, copied_text = copied(hidden, copied_text, time, rotary)
        residuals.append(leave(hidden))
    halves = torch.cat([fusion.visual.weight, fusion.camera.weight], dim=1)
    both = torch.cat([visual, fusion.encoder(rays)], dim=2)
    visual = nn.functional.linear(both, halves, fusion.visual.bias)
    for number, block in enumerate(plain.transformer_blocks):
        merged = {}
        for target in ("attn1.to_k", "ff.net.2"):
            path = f"transformer.transformer_blocks.{number}.{target}"
            update = updates[f"{path}.lora_B.weight"] @ updates[f"{path}.lora_A.weight"]
            merged[f"{target}.weight"] = block.get_submodule(target).weight + update
        visual, text = torch.func.functional_call(block, merged, (visual, text, time, rotary))
        if number < 2:
            visual = visual + residuals[number]
    out = plain.proj_out(plain.norm_out(plain.norm_final(visual), temb=time))
    expected = out.view(2, 3, 2, 3, 4, 2, 2).permute(0, 4, 1, 2, 5, 3, 6).reshape(2, 4, 3, 4, 6)
    torch.testing.assert_close(found, expected)
    expected.square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_masked_samples_and_no_cameras_give_the_bare_base(
    new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    base = new_video_base()
    bare = VideoModel(base, train_base=False)(*video_inputs)
    model = attached(base)
    randomise(model)
    steered = model(*video_inputs, cameras=video_cameras)
    assert torch.equal(model(*video_inputs), bare)
    mask = torch.tensor([False, True])
    mixed = model(*video_inputs, cameras=video_cameras, camera_mask=mask)
    assert torch.equal(mixed[0], bare[0])
    torch.testing.assert_close(mixed[1], steered[1])
    assert not torch.allclose(mixed[1], bare[1])


def test_nothing_is_computed_twice(
    new_video_base: NewBase,
    video_inputs: Inputs,
    video_cameras: Cameras,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = attached(new_video_base())
    base, branches = model.base.transformer, model.branches
    assert branches is not None and branches.control is not None and branches.fusion is not None
    calls: list[str] = []
    plucker = Cameras.plucker
    monkeypatch.setattr(Cameras, "plucker", lambda self: calls.append("rays") or plucker(self))
    once = [base.patch_embed, base.time_embedding, *base.transformer_blocks]
    once += [branches.control.encoder, branches.fusion.encoder, *branches.control.blocks]
    for module in once:
        module.register_forward_hook(lambda module, *_: calls.append(str(id(module))))
    model(*video_inputs, cameras=video_cameras)
    assert sorted(calls) == sorted(["rays", *(str(id(module)) for module in once)])


def test_every_camera_counts_and_none_before_its_time(
    new_video_base: NewBase, video_cameras: Cameras
) -> None:
    torch.manual_seed(0)
    encoder = CameraEncoder(8, 32, patch=2)
    first = encoder(video_cameras.plucker()).view(2, 3, 2, 3, 32)
    for frame in range(9):
        moved = video_cameras.world_to_camera.clone()
        moved[:, frame, 0, 3] += 0.2
        second = encoder(replace(video_cameras, world_to_camera=moved).plucker())
        changed = (second.view(2, 3, 2, 3, 32) != first).flatten(2).any(dim=2)
        latent = math.ceil(frame / 4)
        assert not changed[:, :latent].any()
        assert changed[:, latent].all()


def test_the_stock_call_follows_the_cameras(
    new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    model = attached(new_video_base())
    randomise(model)
    expected = model(*video_inputs, cameras=video_cameras).transpose(1, 2)
    base, branches = model.base, model.branches
    assert branches is not None
    bare = call(base, video_inputs)
    calls: list[int] = []
    assert branches.fusion is not None
    branches.fusion.encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad(), branches.steering(video_cameras):
        for _ in range(2):
            assert torch.equal(call(base, video_inputs), expected)
        doubled = call(base, video_inputs, repeats=2)
    torch.testing.assert_close(doubled, expected.repeat(2, 1, 1, 1, 1))
    assert len(calls) == 1  # the cameras are encoded once for all steps
    assert torch.equal(call(base, video_inputs), bare)


def test_the_stock_pipeline_follows_the_cameras(
    new_video_base: NewBase, video_cameras: Cameras
) -> None:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline
    from PIL import Image

    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    model = attached(new_video_base())
    randomise(model)
    base, branches = model.base, model.branches
    assert branches is not None
    pipeline = CogVideoXImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=base.transformer,
        scheduler=base.scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)

    def sample() -> Tensor:
        return pipeline(
            image=Image.new("RGB", (48, 32), "red"),
            prompt_embeds=base.no_text(1),
            negative_prompt_embeds=base.no_text(1),
            height=32,
            width=48,
            num_frames=9,
            num_inference_steps=2,
            guidance_scale=2.0,
            max_sequence_length=2,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).frames

    bare = sample()
    videos = []
    for clip in range(2):
        cameras = replace(
            video_cameras,
            world_to_camera=video_cameras.world_to_camera[clip : clip + 1],
            intrinsics=video_cameras.intrinsics[clip : clip + 1],
        )
        with branches.steering(cameras):
            videos.append(sample())
    assert (videos[0] - videos[1]).abs().max() > 1e-3
    assert (videos[0] - bare).abs().max() > 1e-3
    assert torch.equal(sample(), bare)


@pytest.mark.parametrize("config", COMBINATIONS)
def test_detached_without_a_trace(
    new_video_base: NewBase,
    video_inputs: Inputs,
    video_cameras: Cameras,
    config: CameraBranchesConfig,
) -> None:
    def describe(transformer: nn.Module) -> dict[str, object]:
        """All that a module tree is: objects by name, their attributes, hooks and flags."""
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
        hooks += ("_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
        found: dict[str, object] = {}
        for name, module in transformer.named_modules():
            found[f"{name}:object"] = (id(module), type(module), sorted(vars(module)))
            found[f"{name}:hooks"] = [len(vars(module)[hook]) for hook in hooks]
        for name, parameter in transformer.named_parameters():
            found[f"{name}:parameter"] = (id(parameter), parameter.requires_grad)
        return found

    base = new_video_base()
    base.transformer.proj_out.requires_grad_(False)
    output = call(base, video_inputs)
    state = {name: value.clone() for name, value in base.transformer.state_dict().items()}
    before = describe(base.transformer)
    branches = CameraBranches(config, base.transformer)
    assert describe(base.transformer) == before
    for _ in range(2):
        branches.attach(base.transformer)
        randomise(branches)
        with branches.steering(video_cameras):
            steered = call(base, video_inputs)
        branches.detach()
        assert not torch.allclose(steered, output)
        assert describe(base.transformer) == before
        assert torch.equal(call(base, video_inputs), output)
        after = base.transformer.state_dict()
        assert list(after) == list(state)
        assert all(torch.equal(after[name], state[name]) for name in state)


def test_a_failed_call_leaves_the_base_bare(
    new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    model = attached(new_video_base())
    randomise(model)
    bare = model(*video_inputs)
    handle = model.base.transformer.proj_out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(*video_inputs, cameras=video_cameras)
    handle.remove()
    assert torch.equal(model(*video_inputs), bare)


def test_frozen_half_precision_base_under_autocast(
    new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    base = new_video_base()
    branches = CameraBranches(TINY, base.transformer)
    base.transformer.bfloat16()
    model = VideoModel(base, branches, train_base=False, gradient_checkpointing=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    randomise(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*video_inputs, cameras=video_cameras).square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    reference = attached(new_video_base())
    randomise(reference)
    exact = reference(*video_inputs, cameras=video_cameras).square().mean()
    torch.testing.assert_close(loss.float(), exact, rtol=0.05, atol=0)


@pytest.mark.parametrize("lora_rank", [0, TINY.lora_rank])
def test_joint_training_reaches_base_and_branches(
    lora_rank: int, new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    config = TINY.model_copy(update={"lora_rank": lora_rank})
    model = attached(new_video_base(), config, train_base=True)
    model(*video_inputs, cameras=video_cameras).square().mean().backward()
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert names == {"transformer", "branches"}


def test_what_does_not_fit_is_refused(
    tmp_path: Path, new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    base = new_video_base()
    with pytest.raises(UserError, match="control_blocks is 4, but the base has 3"):
        CameraBranches(TINY.model_copy(update={"control_blocks": 4}), base.transformer)
    with pytest.raises(UserError, match="no camera branches"):
        VideoModel(base, train_base=False)(*video_inputs, cameras=video_cameras)
    model = attached(base)
    branches = model.branches
    assert branches is not None
    with pytest.raises(UserError, match=r"cameras are \[2, 5\].*expected \[2, 9\]"):
        model(*video_inputs, cameras=video_cameras.select(slice(0, 5)))
    with pytest.raises(UserError, match="cameras are of 64x96 images; expected 32x48"):
        model(*video_inputs, cameras=video_cameras.resize(64, 96))
    one = torch.tensor([True])
    with pytest.raises(UserError, match="mask for 1"), branches.steering(video_cameras, one):
        pass
    with pytest.raises(UserError, match="steered already"), branches.steering(video_cameras):
        model(*video_inputs, cameras=video_cameras)
    with pytest.raises(UserError, match="attached already"):
        branches.attach(new_video_base().transformer)
    with pytest.raises(UserError, match="carries LoRA adapters"):
        CameraBranches(TINY, base.transformer)
    with pytest.raises(UserError, match="attached to another base"):
        VideoModel(new_video_base(), branches, train_base=False)
    branches.detach()
    with pytest.raises(UserError, match="call attach first"), branches.steering(video_cameras):
        pass
    save_branches(branches, tmp_path)
    (tmp_path / LORA_FILE).unlink()
    with pytest.raises(UserError, match=f"{LORA_FILE} is missing"):
        load_branches(tmp_path, base.transformer)


@pytest.mark.parametrize(
    "changes", [{"branches": ()}, {"branches": ("lora", "lora")}, {"lora_targets": ("to_x",)}]
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CameraBranchesConfig(**changes)
