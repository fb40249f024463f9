"""Rehearsals against the real step of the same task: memory, FLOPs, gradients and states, batches, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_raster_shapes
import pytest
import torch
from conftest import NewRecipe, RealStep, allocated_peak, open_task
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.autoencoders.latent_shards import write_latents
from models.autoencoders.linear_codec import LinearCodec
from models.rendering import by_shape
from train.planning.outline import outline_recipe
from train.planning.rehearsal import Rehearsal, check_devices, rehearse
from train.tasks.registry import Recipe

NewStep = Callable[[Recipe, int], RealStep]
BATCH = 4
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
"""What torch's counter leaves out."""
CASES = [
    ("video", {}, "fp32"),
    ("video", {"gradient_checkpointing": True}, "fp32"),
    ("video", {"gradient_checkpointing": True}, "bf16"),
    ("reconstruction", {}, "fp32"),
    ("reconstruction", {"checkpointing": True}, "fp32"),
    ("reconstruction", {"checkpointing": True}, "bf16"),
    ("autoencoder", {"batch_size": 2}, "fp32"),
]
IDS = [f"{kind}-{'-'.join([*changes, precision])}" for kind, changes, precision in CASES]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe_of(new_recipe: NewRecipe, kind: str, changes: dict[str, Any], precision: str) -> Recipe:
    changes = dict(changes)
    checkpointing = changes.pop("checkpointing", None)
    recipe = new_recipe(kind, precision, **changes)
    if checkpointing is not None:
        model = recipe.task.model.model_copy(update={"gradient_checkpointing": checkpointing})
        task = recipe.task.model_copy(update={"model": model})
        recipe = recipe.model_copy(update={"task": task})
    return recipe


def rehearsed(recipe: Recipe, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """As this CPU runs it, with the CPU's rasteriser."""
    monkeypatch.setattr(by_shape, "rasterise", cpu_raster_shapes.rasterise)
    return rehearse(outline_recipe(recipe), batch_size, on_gpu=False)


@pytest.mark.parametrize(("kind", "changes", "precision"), CASES, ids=IDS)
def test_memory_and_flops_are_those_of_the_real_step(
    new_recipe: NewRecipe,
    real_step: NewStep,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: dict[str, Any],
    precision: str,
) -> None:
    recipe = recipe_of(new_recipe, kind, changes, precision)
    count = recipe.task.batch_size
    found = rehearsed(recipe, count, monkeypatch)
    step = real_step(recipe, count)
    assert found.peak == pytest.approx(allocated_peak(step.run), rel=0.15)
    step.clear()
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step.run()
    total = sum(found.forward.values()) + sum(found.backward.values())
    assert total == pytest.approx(counter.get_total_flops(), rel=1e-3)
    parameters = [p for p in step.model.parameters() if p.requires_grad]
    assert found.gradients == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    states = [t for state in step.optimizer.state.values() for t in state.values()]
    assert found.states == sum(t.nbytes for t in states)
    assert found.batch == sum(t.nbytes for t in step.batch.values())
    assert found.without_gradient == ()


@pytest.mark.parametrize("kind", ["video", "reconstruction"])
def test_what_is_kept_for_the_backward_pass(
    new_recipe: NewRecipe, real_step: NewStep, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Against the tensors that autograd says it saves, each storage once, without weights and batch."""
    recipe = new_recipe(kind)
    found = rehearsed(recipe, BATCH, monkeypatch)
    step = real_step(recipe, BATCH)
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    modules = [step.model, *([step.model.base.transformer] if kind == "video" else [])]
    known = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    known += step.batch.values()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.task.losses(step.model, step.batch, torch.Generator())["loss"]
    for tensor in known:
        saved.pop(tensor.untyped_storage()._cdata, None)
    real = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert found.after_forward == pytest.approx(real, rel=0.15)
    assert loss.requires_grad


def test_checkpointing_trades_memory_for_work(new_recipe: NewRecipe) -> None:
    on = rehearse(outline_recipe(new_recipe("video", gradient_checkpointing=True)), BATCH)
    off = rehearse(outline_recipe(new_recipe("video")), BATCH)
    assert on.peak < 0.6 * off.peak
    assert on.forward == off.forward
    blocks = sum(on.backward.values()) - sum(off.backward.values())
    assert 0.8 < blocks / sum(off.forward.values()) < 1


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_gpu_sums_and_normalises_in_float32(new_recipe: NewRecipe, on_gpu: bool) -> None:
    """Which makes LaLRM's activations larger than on a CPU, in bfloat16 and not in float32."""
    sizes = {
        precision: rehearse(
            outline_recipe(new_recipe("reconstruction", precision)), BATCH, on_gpu=on_gpu
        ).held["model"]
        for precision in ("fp32", "bf16")
    }
    assert (sizes["bf16"] / sizes["fp32"] > 0.75) == on_gpu


@pytest.mark.parametrize("kind", ["video", "reconstruction"])
@pytest.mark.parametrize("latents", ["stored", "encode"])
def test_batches_are_shaped_as_the_loaders(
    new_recipe: NewRecipe, weights: Path, tmp_path: Path, kind: str, latents: str
) -> None:
    scenes = SceneConfig(num_frames=17, num_near=1, num_far=1, supersampling=1)
    index = write_shards([make_clip(seed, scenes) for seed in range(2)], tmp_path / "shards")
    if latents == "stored":
        codec = LinearCodec.from_pretrained(weights / "codec")
        windows = new_recipe("video").task.windows
        write_latents(index, codec, weights / "codec", windows)
    changes = {"latents": latents, "data": [index.folder], "validation_data": index.folder}
    recipe = new_recipe(kind, batch_size=2, num_workers=0, **changes)
    loader = recipe.task.create(0).loader(rank=0, world_size=1, start=0)
    batch = next(iter(loader))
    assert {name: tuple(t.shape[1:]) for name, t in batch.items()} == outline_recipe(recipe).sample
    assert all(t.dtype == torch.float32 for t in batch.values())


def test_autoencoder_batches_are_shaped_as_the_loaders(
    new_recipe: NewRecipe, tmp_path: Path
) -> None:
    scenes = SceneConfig(num_frames=9, num_near=0, num_far=0, supersampling=1)
    index = write_shards([make_clip(seed, scenes) for seed in range(2)], tmp_path / "shards")
    changes = {"data": [index.folder], "validation_data": index.folder}
    recipe = new_recipe("autoencoder", batch_size=2, num_workers=0, **changes)
    batch = next(iter(recipe.task.create(0).loader(rank=0, world_size=1, start=0)))
    assert {name: tuple(t.shape[1:]) for name, t in batch.items()} == outline_recipe(recipe).sample


@pytest.mark.parametrize("kind", ["video", "reconstruction"])
@pytest.mark.parametrize("latents", ["stored", "encode"])
def test_all_that_a_step_uses_is_on_one_device(
    new_recipe: NewRecipe, kind: str, latents: str
) -> None:
    check_devices(outline_recipe(new_recipe(kind, latents=latents)), 2)


def test_what_stays_on_the_cpu_is_found(new_recipe: NewRecipe) -> None:
    outline = outline_recipe(new_recipe("reconstruction", loss={"perceptual": 1.0}))
    check_devices(outline, 2)
    outline = outline_recipe(new_recipe("reconstruction", loss={"perceptual": 1.0}))
    stays: Any = outline.task
    vars(stays.perceptual)["to"] = lambda device: stays.perceptual  # as if nothing moved it
    with pytest.raises(RuntimeError, match="same device"):
        check_devices(outline, 2)


def test_a_wrong_shape_is_found(new_recipe: NewRecipe) -> None:
    outline = outline_recipe(new_recipe("video"))
    outline.sample["latents"] = (8, 5, 8, 11)
    with pytest.raises(Exception, match="cameras are of 64x96 images"):
        rehearse(outline, 2)


def test_a_wrong_dtype_is_found(new_recipe: NewRecipe) -> None:
    """A base in bfloat16 needs autocast: without it the branches' float32 meets it."""
    recipe = new_recipe("video", "fp32", base_dtype="bfloat16")
    with pytest.raises(RuntimeError, match=r"dtype|BFloat16"):
        rehearse(outline_recipe(recipe), 2)
    assert rehearse(outline_recipe(new_recipe("video", "bf16", base_dtype="bfloat16")), 2).peak


def test_nothing_real_is_made(new_recipe: NewRecipe) -> None:
    """Ten times the width would be gigabytes."""
    model = {"latent_channels": 8, "width": 8192, "depth": 8, "heads": 16}
    with FakeTensorMode():
        pass  # its first use imports what it needs
    before = torch.empty(0).untyped_storage().nbytes()
    found = rehearse(outline_recipe(new_recipe("reconstruction", model=model)), 64)
    assert before == 0 and found.gradients > 20 * 2**30


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["video", "reconstruction"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_what_a_gpu_allocates(
    new_recipe: NewRecipe, kind: str, checkpointing: bool
) -> None:
    """The peak of `torch.cuda.max_memory_allocated` in forward and backward, beside weights and batch."""
    name = "gradient_checkpointing" if kind == "video" else "checkpointing"
    recipe = recipe_of(new_recipe, kind, {name: checkpointing, "batch_size": 16}, "bf16")
    found = rehearse(outline_recipe(recipe), 16)
    device = torch.device("cuda")
    task = open_task(recipe)
    model = task.build().to(device).train()
    batch = {n: t.to(device) for n, t in _gpu_batch(recipe, 16).items()}

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = task.losses(model, batch, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        model.zero_grad(set_to_none=True)

    run()  # libraries take their work space
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    real = torch.cuda.max_memory_allocated() - before
    assert found.peak == pytest.approx(real, rel=0.15)


def _gpu_batch(recipe: Recipe, batch_size: int) -> dict[str, torch.Tensor]:
    from conftest import real_batch

    return real_batch(recipe, batch_size)
