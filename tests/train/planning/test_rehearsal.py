"""Rehearsals against the real step of the same task: memory, FLOPs, gradients and states, batches, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_raster_shapes
import pytest
import torch
from small_steps import LALRM, NewRecipe, RealStep, allocated_peak, open_task, real_batch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from data.loader import POSITION
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.autoencoders.latent_shards import write_latents
from models.autoencoders.linear_codec import LinearCodec
from models.rendering import by_shape
from models.video.model import VideoModel
from train.engine import autocast
from train.planning.outline import outline_recipe
from train.planning.rehearsal import Rehearsal, check_devices, rehearse
from train.planning.switches import with_switches
from train.tasks.registry import Recipe

NewStep = Callable[[Recipe, int], RealStep]
BATCH = 4


def formula(count: Callable[..., int]) -> Callable[..., int]:
    """A formula of torch's in the form in which its counter takes another one."""

    def raw(*args: Any, **kwargs: Any) -> int:
        return count(*args, **kwargs)

    raw._get_raw = True  # type: ignore[attr-defined]
    return raw


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: formula(sdpa_flop),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: formula(
        sdpa_backward_flop
    ),
}
"""What torch's counter leaves out."""
SLOW = pytest.mark.slow
CASES = [
    ("video", False, "fp32"),
    ("video", True, "bf16"),
    ("reconstruction", False, "fp32"),
    ("reconstruction", True, "bf16"),
    pytest.param("video", False, "bf16", marks=SLOW),
    pytest.param("video", True, "fp32", marks=SLOW),
    pytest.param("reconstruction", False, "bf16", marks=SLOW),
    pytest.param("reconstruction", True, "fp32", marks=SLOW),
    pytest.param("autoencoder", None, "fp32", marks=SLOW),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe_of(
    new_recipe: NewRecipe, kind: str, checkpointing: bool | None, precision: str
) -> Recipe:
    return with_switches(new_recipe(kind, precision), checkpointing, None)


def saved_bytes(step: RealStep) -> int:
    """What autograd says it saves in the forward pass, each storage once, without weights and batch."""
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    modules = [step.model]
    if isinstance(step.model, VideoModel):
        modules.append(step.model.base.transformer)
    known = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(torch.device("cpu"), step.precision),
    ):
        step.task.losses(step.model, step.batch, torch.Generator())["loss"].detach()
    for tensor in (*known, *step.batch.values()):
        saved.pop(tensor.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def rehearsed(recipe: Recipe, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """As this CPU runs it, with the CPU's rasteriser."""
    monkeypatch.setattr(by_shape, "rasterise", cpu_raster_shapes.rasterise)
    return rehearse(outline_recipe(recipe), batch_size, on_gpu=False)


@pytest.mark.parametrize(("kind", "checkpointing", "precision"), CASES)
def test_memory_and_flops_are_those_of_the_real_step(
    new_recipe: NewRecipe,
    real_step: NewStep,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    checkpointing: bool | None,
    precision: str,
) -> None:
    recipe = recipe_of(new_recipe, kind, checkpointing, precision)
    count = recipe.task.batch_size
    found = rehearsed(recipe, count, monkeypatch)
    step = real_step(recipe, count)
    assert found.peak == pytest.approx(allocated_peak(step.run), rel=0.15)
    step.clear()
    assert found.after_forward == pytest.approx(saved_bytes(step), rel=0.15)
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


def test_checkpointing_trades_memory_for_work(new_recipe: NewRecipe) -> None:
    on, off = (
        rehearse(outline_recipe(recipe_of(new_recipe, "reconstruction", switch, "fp32")), BATCH)
        for switch in (True, False)
    )
    assert on.held["model"] < 0.5 * off.held["model"]
    assert on.forward == off.forward
    again = sum(on.backward.values()) - sum(off.backward.values())
    # A block is computed again up to its last product, whose result the backward pass does not need.
    tokens, width = 5 * 4 * 6, LALRM["width"]
    block = 2 * tokens * width * (3 + 1 + 4) * width + 2 * 2 * tokens**2 * width
    assert again == BATCH * LALRM["depth"] * block


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_normalises_in_float32(new_recipe: NewRecipe, precision: str) -> None:
    """Which makes LaLRM's activations larger than on a CPU, in bfloat16 and not in float32."""
    on_gpu, on_cpu = (
        rehearse(outline_recipe(new_recipe("reconstruction", precision)), BATCH, on_gpu=where)
        for where in (True, False)
    )
    ratio = on_gpu.held["model"] / on_cpu.held["model"]
    assert 1.2 < ratio < 2 if precision == "bf16" else ratio == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", ["video", "reconstruction"])
@pytest.mark.parametrize("latents", ["stored", "encode"])
def test_batches_are_shaped_as_the_loaders(
    new_recipe: NewRecipe, weights: Path, tmp_path: Path, kind: str, latents: str
) -> None:
    scenes = SceneConfig(height=32, width=48, num_frames=17, num_near=1, num_far=1, supersampling=1)
    index = write_shards([make_clip(seed, scenes) for seed in range(2)], tmp_path / "shards")
    if latents == "stored":
        codec = LinearCodec.from_pretrained(weights / "codec")
        windows = new_recipe("video").task.windows
        write_latents(index, codec, weights / "codec", windows)
    changes = {"latents": latents, "data": [index.folder], "validation_data": index.folder}
    recipe = new_recipe(kind, batch_size=2, num_workers=0, **changes)
    loader = recipe.task.create(0).loader(rank=0, world_size=1, start=0)
    batch = next(iter(loader))
    del batch[POSITION]  # a number that only seeds what is drawn
    assert {name: tuple(t.shape[1:]) for name, t in batch.items()} == outline_recipe(recipe).sample
    assert all(t.dtype == torch.float32 for t in batch.values())


def test_autoencoder_batches_are_shaped_as_the_loaders(
    new_recipe: NewRecipe, tmp_path: Path
) -> None:
    scenes = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0, supersampling=1)
    index = write_shards([make_clip(seed, scenes) for seed in range(2)], tmp_path / "shards")
    changes = {"data": [index.folder], "validation_data": index.folder}
    recipe = new_recipe("autoencoder", batch_size=2, num_workers=0, **changes)
    batch = next(iter(recipe.task.create(0).loader(rank=0, world_size=1, start=0)))
    del batch[POSITION]
    assert {name: tuple(t.shape[1:]) for name, t in batch.items()} == outline_recipe(recipe).sample


@pytest.mark.parametrize(
    ("kind", "latents"), [("video", "stored"), ("reconstruction", "encode"), ("autoencoder", None)]
)
def test_all_that_a_step_uses_is_on_one_device(
    new_recipe: NewRecipe, kind: str, latents: str | None
) -> None:
    changes = {} if latents is None else {"latents": latents}
    check_devices(outline_recipe(new_recipe(kind, **changes)), 2)


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
    outline.sample["latents"] = (8, 5, 4, 5)
    with pytest.raises(Exception, match="cameras are of 32x48 images"):
        rehearse(outline, 2)


def test_a_wrong_dtype_is_found(new_recipe: NewRecipe) -> None:
    """A base in bfloat16 needs autocast: without it the branches' float32 meets it."""
    recipe = new_recipe("video", "bf16", base_dtype="bfloat16")
    assert rehearse(outline_recipe(recipe), 2).peak
    without = recipe.model_copy(
        update={"engine": recipe.engine.model_copy(update={"precision": "fp32"})}
    )
    with pytest.raises(RuntimeError, match=r"one dtype, found torch.bfloat16 and torch.float32"):
        rehearse(outline_recipe(without), 2)


def test_a_recipe_says_that_its_dtypes_do_not_meet(new_recipe: NewRecipe) -> None:
    with pytest.raises(ValueError, match=r"set engine\.precision=bf16, or task\.base_dtype"):
        new_recipe("video", "fp32", base_dtype="bfloat16")


def test_nothing_real_is_made(new_recipe: NewRecipe) -> None:
    """Of a model whose gradients alone would be 24 GiB."""
    model = {"latent_channels": 8, "width": 8192, "depth": 8, "heads": 16}
    recipe, found = new_recipe("reconstruction", model=model), []
    real = allocated_peak(lambda: found.append(rehearse(outline_recipe(recipe), 64)))
    assert found[0].gradients > 20 * 2**30
    assert real < 50 * 2**20


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["video", "reconstruction"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_what_a_gpu_allocates(
    new_recipe: NewRecipe, kind: str, checkpointing: bool
) -> None:
    """The peak of `torch.cuda.max_memory_allocated` in forward and backward, beside weights and batch."""
    recipe = recipe_of(new_recipe, kind, checkpointing, "bf16")
    found = rehearse(outline_recipe(recipe), 16)
    device = torch.device("cuda")
    task = open_task(recipe)
    model = task.build().to(device).train()
    batch = {n: t.to(device) for n, t in real_batch(recipe, 16).items()}

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
