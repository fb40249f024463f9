"""Bytes of a sample: exact where there are shards, else what their kind leads to expect."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_steps import NewRecipe

from data.clip_windows import WindowConfig
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.autoencoders.latent_shards import write_latents
from models.autoencoders.linear_codec import LinearCodec
from train.planning.data_volume import sample_bytes
from train.planning.outline import outline_recipe


def test_shards_that_are_here_tell_it(new_recipe: NewRecipe, weights: Path, tmp_path: Path) -> None:
    scenes = SceneConfig(height=32, width=48, num_frames=17, num_near=0, num_far=0, supersampling=1)
    index = write_shards([make_clip(seed, scenes) for seed in range(3)], tmp_path / "shards")
    codec = LinearCodec.from_pretrained(weights / "codec")
    write_latents(index, codec, weights / "codec", WindowConfig(num_frames=17))
    size = sum(path.stat().st_size for path in index.folder.glob("*.tar")) / 3
    found, source = sample_bytes(outline_recipe(new_recipe("video", data=[index.folder])))
    assert found == pytest.approx(size, rel=0.15)  # tar files end in zeros
    assert source == "as stored in the shards"


def test_what_is_expected_of_shards_to_come(new_recipe: NewRecipe) -> None:
    windows = {"num_frames": 17, "strides": [1, 3], "mirrored": False}
    found, source = sample_bytes(outline_recipe(new_recipe("video", windows=windows)))
    frames, latents = (49 + 24) * 32 * 48 * 0.5, 4 * 2 * 8 * 5 * 4 * 6
    assert found == pytest.approx(frames + latents)
    assert "49 + 24 frames" in source and "latents of 4 windows" in source
