from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.autoencoders.files import load_autoencoder
from train.tasks.autoencoder import AutoencoderConfig

SCENES = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0)
COGVIDEOX = {
    "kind": "cogvideox",
    "latent_channels": 4,
    "block_out_channels": [8, 8, 8, 8],
    "norm_groups": 4,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder") / "shards"
    write_shards([make_clip(seed, SCENES) for seed in range(4)], folder)
    return folder


def make_config(shards: Path, model: dict[str, object], **changes: object) -> AutoencoderConfig:
    settings = {
        "model": model,
        "data": [shards],
        "validation_data": shards,
        "num_validation_clips": 2,
        "num_frames": 9,
        "batch_size": 2,
        "num_workers": 0,
    }
    return AutoencoderConfig.model_validate(settings | changes)


def test_linear_codec_starts_fitted_and_exports_unit_latents(shards, tmp_path) -> None:
    task = make_config(shards, {"kind": "linear", "latent_channels": 4}).create(seed=0)
    codec = task.build()
    assert task.validate(codec).scalars["psnr"] > 20
    task.export(codec, tmp_path / "codec")
    again = load_autoencoder(tmp_path / "codec")
    frames = task.validation_frames
    with torch.no_grad():
        latents = again.encode(task._first_clips(task.indices[0], 32))
        torch.testing.assert_close(again.decode(latents[:2]), codec.decode(codec.encode(frames)))
    assert latents[:, :, 1:].std() == pytest.approx(1, abs=0.02)


def test_cogvideox_learns_and_its_divergence_counts(shards) -> None:
    task = make_config(shards, COGVIDEOX, loss={"kl": 1e-3}).create(seed=0)
    model = task.build()
    batch = next(iter(task.loader(rank=0, world_size=1, start=0)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(4):
        parts = task.losses(model, batch, torch.Generator().manual_seed(0))
        torch.testing.assert_close(parts["loss"], parts["mse"] + 1e-3 * parts["kl"])
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        seen.append(float(parts["loss"]))
    assert seen[-1] < seen[0]
    assert set(task.validate(model.eval()).scalars) == {"psnr", "psnr_first", "psnr_rest"}
