"""Where sizes come from when weights and shards are not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_steps import BASE, NewRecipe

from configs.errors import UserError
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.video.base import VideoModelConfig, create_base, create_scheduler
from train.planning.outline import outline_recipe
from train.planning.sizes import ROOT, autoencoder_in, base_in, frame_size
from train.tasks.registry import Recipe

FULL = Path("weights/CogVideoX-5b-I2V")


def test_the_written_out_model_is_cogvideox_5b_i2v() -> None:
    """Sizes are the published ones: 5.57 billion parameters, and an autoencoder of 215,583,907."""
    notes: list[str] = []
    base = base_in(FULL, torch.bfloat16, None, notes)
    assert sum(p.numel() for p in base.transformer.parameters()) == 5_570_479_680
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in base.transformer.parameters())
    with torch.device("meta"):
        ours = create_base(VideoModelConfig()).transformer
    sizes = {name: tuple(t.shape) for name, t in base.transformer.state_dict().items()}
    assert sizes == {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    known = {k: v for k, v in ours.config.items() if not k.startswith("_")}
    assert {k: base.transformer.config[k] for k in known} == known
    schedule = create_scheduler().config
    assert {k: base.scheduler.config[k] for k in schedule if not k.startswith("_")} == {
        k: v for k, v in schedule.items() if not k.startswith("_")
    }
    autoencoder = autoencoder_in(FULL / "vae", notes)
    assert sum(p.numel() for p in autoencoder.parameters()) == 215_583_907
    assert autoencoder.latent_channels == 16
    assert notes == [
        "weights/CogVideoX-5b-I2V is not here: its sizes are from configs/full/CogVideoX-5b-I2V",
        "weights/CogVideoX-5b-I2V/vae is not here: its sizes are from configs/full/CogVideoX-5b-I2V/vae",
    ]


def test_what_is_here_comes_first(weights: Path) -> None:
    notes: list[str] = []
    base = base_in(weights / "base", torch.float32, None, notes)
    assert base.transformer.config.num_layers == BASE.layers
    assert all(p.is_meta for p in base.transformer.parameters())
    assert autoencoder_in(weights / "codec", notes).latent_channels == 8
    assert notes == []


def test_a_base_that_another_recipe_trains_has_its_sizes() -> None:
    notes: list[str] = []
    recipe = ROOT / "configs" / "tiny" / "video_camera.yaml"
    base = base_in(Path("runs/tiny_video_base/weights/base"), torch.float32, recipe, notes)
    assert base.transformer.config.num_layers == 6
    assert len(notes) == 1 and "tiny/video_base.yaml" in notes[0]


def test_what_is_nowhere_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"one of those in configs/full: CogVideoX-5b-I2V"):
        base_in(Path("weights/other"), torch.float32, None, [])
    with pytest.raises(UserError, match=r"other/vae/config\.json is missing"):
        autoencoder_in(Path("weights/other/vae"), [])
    with pytest.raises(UserError, match=r"add task\.frame_size=\[HEIGHT,WIDTH\]"):
        frame_size([Path("shards")], None, None, [])


def test_frames_are_as_large_as_the_shards_are(new_recipe: NewRecipe, tmp_path: Path) -> None:
    scenes = SceneConfig(height=32, width=64, num_frames=9, num_near=0, num_far=0, supersampling=1)
    folder = write_shards([make_clip(0, scenes)], tmp_path / "shards").folder
    assert frame_size([folder], None, None, []) == (32, 64)
    with pytest.raises(UserError, match=r"32x64, but task\.frame_size is \[32, 48\]"):
        frame_size([folder], (32, 48), None, [])
    base = create_base(BASE)
    notes: list[str] = []
    assert frame_size([Path("shards")], None, base, notes) == (BASE.height, BASE.width)
    assert "as the base's" in notes[0]
    settings = {"data": [folder], "validation_data": folder, "num_frames": 9}
    recipe = new_recipe("autoencoder", **settings)
    with pytest.raises(UserError, match=r"task\.frame_size is \[32, 48\]"):
        recipe.task.create(0)


def test_latents_are_taken_to_be_made_where_nothing_is_known(new_recipe: NewRecipe) -> None:
    outline = outline_recipe(new_recipe("reconstruction", latents="auto"))
    assert not outline.stored_latents and "latents" not in outline.sample
    assert "task.latents=stored" in outline.notes[-1]


def test_earlier_stages_are_not_needed(new_recipe: NewRecipe, weights: Path) -> None:
    recipe: Recipe = new_recipe("reconstruction", init_from="runs/earlier/weights")
    assert sum(p.numel() for p in outline_recipe(recipe).model.parameters())
    branched = new_recipe("video", branches_from="runs/earlier/weights/branches")
    assert outline_recipe(branched).model.branches is not None
