"""Steps of full-size recipes beside their plan: on the CPU, and at few layers, the same path as on a GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from configs.errors import UserError
from configs.loader import load_config
from eval import benchmark
from eval.benchmarks import planned_step
from models.video.camera_branches import CameraBranches
from train.planning.outline import outline_recipe
from train.tasks.registry import Recipe

FULL = Path(__file__).resolve().parents[3] / "configs" / "full"
RECIPES = {
    "video": "  kind: video\n  base: {base}\n  base_dtype: bfloat16\n  autoencoder: {codec}\n"
    "  branches: {{control_blocks: 1, lora_rank: 4, encoder_width: 8}}\n  gradient_checkpointing: true\n",
    "reconstruction": "  kind: reconstruction\n  autoencoder: {codec}\n  views: {{num_input: 9, num_seen: 1,"
    " num_unseen: 1}}\n  model: {{latent_channels: 8, width: 16, depth: 1, heads: 2}}\n"
    "  loss: {{perceptual: 0.5, perceptual_at_once: 1, depth: 0.1}}\n",
}


@pytest.fixture
def base(tmp_path) -> Path:
    """The folder of a small base as published ones are: settings, no weights."""
    folder = tmp_path / "small_base"
    published = FULL / "CogVideoX-5b-I2V"
    settings = json.loads((published / "transformer/config.json").read_text())
    settings |= {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "in_channels": 16,
    }
    settings |= {"out_channels": 8, "text_embed_dim": 8, "time_embed_dim": 16, "sample_frames": 9}
    settings |= {"sample_height": 4, "sample_width": 6, "max_text_seq_length": 2}
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer/config.json").write_text(json.dumps(settings))
    (folder / "scheduler").mkdir()
    schedule = (published / "scheduler/scheduler_config.json").read_text()
    (folder / "scheduler/scheduler_config.json").write_text(schedule)
    return folder


def write_recipe(kind: str, folder: Path, base: Path, codec: Path) -> Path:
    recipe = folder / f"{kind}.yaml"
    recipe.write_text(
        "name: b\nloop: {steps: 1, ema_decay: 0.9}\nengine: {kind: deepspeed, precision: bf16}\ntask:\n"
        + RECIPES[kind].format(base=base, codec=codec)
        + ("  windows: {num_frames: 9, strides: [1]}\n" if kind == "video" else "")
        + "  data: [unused]\n  validation_data: unused\n  batch_size: 24\n  frame_size: [32, 48]\n"
    )
    return recipe


@pytest.mark.slow
def test_a_step_is_measured_beside_its_plan(tmp_path, base, weights, capsys):
    recipes = [write_recipe(kind, tmp_path, base, weights["autoencoder"]) for kind in RECIPES]
    out = tmp_path / "numbers.json"
    words = ["planned", "--device", "cpu", "--clips", "2", "--json", str(out), "--recipe"]
    assert benchmark.main([*words, *map(str, recipes)]) == 0
    (found,) = json.loads(out.read_text())["results"]
    assert [row["recipe"] for row in found["rows"]] == list(RECIPES)
    for row in found["rows"]:
        assert row["step_seconds"] > 0 and 0 < row["share_of_peak"] < 1
        assert row["tflop"] > 0 and row["trained_weights"] > 0
        assert "measured_gib" not in row  # a CPU's allocator does not tell


def test_a_part_of_the_layers_is_of_full_width(tmp_path):
    recipe = FULL / "video_camera.yaml"
    task = load_config(recipe, [], Recipe).task
    changes = planned_step._fewer_layers(task, 4, tmp_path)
    outline = outline_recipe(load_config(recipe, changes, Recipe), recipe)
    base = outline.frozen["base"]
    assert len(base.transformer_blocks) == 4
    assert base.transformer_blocks[0].attn1.to_q.weight.shape == (3072, 3072)
    branches = next(m for m in outline.model.modules() if isinstance(m, CameraBranches))
    assert branches.config.control_blocks == 2


def test_random_batches_have_the_shapes_and_cameras_of_real_ones(tmp_path, base, weights):
    recipe = write_recipe("reconstruction", tmp_path, base, weights["autoencoder"])
    config = load_config(recipe, list(planned_step.FIXED), Recipe)
    outline = outline_recipe(config, recipe)
    batch = planned_step.random_batch(outline, 3)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        name: (3, *shape) for name, shape in outline.sample.items()
    }
    poses, intrinsics = batch["target_world_to_camera"], batch["target_intrinsics"]
    assert torch.equal(poses[..., :3, :3].flatten(0, 1), torch.eye(3).expand(6, 3, 3))
    assert intrinsics[0, 0].tolist() == [[48, 0, 24], [0, 48, 16], [0, 0, 1]]


def test_filled_modules_keep_signals_finite():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    planned_step.fill(module)
    assert module(torch.randn(5, 8)).isfinite().all()
    assert module[3](torch.ones(1, 8)).std() > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_that_is_said():
    with pytest.raises(
        UserError, match=re.escape("--device is 'cuda', but PyTorch finds no CUDA GPU")
    ):
        benchmark.main(["planned"])
