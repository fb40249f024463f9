from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from configs.errors import UserError
from configs.loader import load_config
from data.cameras import Cameras
from data.clip_windows import Window, WindowConfig, load_window
from data.clips import Clip
from data.paired_shards import PairedWriter
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex
from data.shard_writing import write_shards
from data.shards import open_clip
from models.autoencoders.identity import latent_probes
from models.autoencoders.latent_shards import GENERATED, LATENTS, latents_recipe, write_latents
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.bundled_weights import TINY_LALRM
from models.gaussians import Gaussians
from models.lalrm import LaLRMConfig
from models.pretrained import read_config
from train import losses
from train.tasks.reconstruction import LossConfig, ReconstructionConfig
from train.tasks.reconstruction_sample import batch_cameras
from train.tasks.registry import Recipe

ROOT = Path(__file__).resolve().parents[3]
SCENES = SceneConfig(height=32, width=48, num_frames=9, num_near=2, num_far=1)
MODEL = LaLRMConfig(
    latent_channels=4, width=32, depth=1, heads=2, temporal_alignment=True, color_skip=True
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shards of six small clips and a linear codec fitted to them."""
    root = tmp_path_factory.mktemp("reconstruction")
    clips = [make_clip(seed, SCENES) for seed in range(6)]
    write_shards(clips, root / "shards")
    codec = LinearCodec(LinearCodecConfig(latent_channels=4))
    codec.fit(torch.stack([clip.frames[:9] for clip in clips]))
    codec.save_pretrained(root / "codec")
    return {"shards": root / "shards", "codec": root / "codec", "root": root}


def make_config(folders: dict[str, Path], **changes: object) -> ReconstructionConfig:
    settings = {
        "model": MODEL,
        "autoencoder": folders["codec"],
        "data": [folders["shards"]],
        "validation_data": folders["shards"],
        "num_validation_clips": 2,
        "batch_size": 2,
        "num_workers": 0,
        "views": {"num_input": 9, "num_seen": 2, "num_unseen": 2, "reverse_probability": 0.5},
        "mirror_probability": 0.5,
        "loss": LossConfig(depth=0.1, opacity=0.01, scale=0.1),
    }
    return ReconstructionConfig.model_validate(settings | changes)


class Oracle(nn.Module):
    """A model that knows the answer: Gaussians at the true depths in the true colours."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.frames, self.depth = batch["input_frames"], batch["input_depth"]

    def forward(self, latents: torch.Tensor, cameras: Cameras) -> Gaussians:
        distance = losses.half_resolution_distance(self.depth, cameras)
        batch_size, num_frames, *size = distance.shape
        grid = cameras.resize(*size)
        origins, directions = grid.rays()
        means = origins[:, :, None, None] + distance[..., None] * directions
        footprint = distance / grid.intrinsics[..., 0, 0][..., None, None]
        colors = F.avg_pool2d(self.frames.flatten(0, 1), 2).unflatten(0, (batch_size, num_frames))
        num = distance[0].numel()
        return Gaussians(
            means=means.flatten(1, 3),
            quats=torch.tensor([1.0, 0, 0, 0]).expand(batch_size, num, 4),
            scales=(0.2 * footprint).flatten(1)[..., None].expand(-1, -1, 3),
            opacities=torch.full((batch_size, num), 0.99),
            colors=colors.movedim(2, -1).flatten(1, 3),
        )


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_true_depth_and_colour_nearly_solve_the_task(folders, jitter: float) -> None:
    """Cameras, depth, time reversal, scale jitter and renderer agree: the truth scores as the truth."""
    task = make_config(folders, scale_jitter=jitter, batch_size=6).create(seed=0)
    batch = next(iter(task.loader(rank=0, world_size=1, start=0)))
    parts = task.losses(Oracle(batch), batch, torch.Generator())
    assert parts["psnr"] > 18
    assert parts["depth"] < 1e-4
    wrong = {**batch, "input_depth": batch["input_depth"] * 1.5}
    worse = task.losses(Oracle(wrong), batch, torch.Generator())
    assert worse["psnr"] < parts["psnr"] - 2
    assert worse["depth"] == pytest.approx(0.405, abs=0.01)


def test_gradients_reach_every_parameter(folders) -> None:
    task = make_config(folders).create(seed=0)
    model = task.build()
    # The decoder's zero bias and small weights make some gradients tiny, but none is missing.
    batch = next(iter(task.loader(rank=0, world_size=1, start=0)))
    parts = task.losses(model, batch, torch.Generator())
    assert set(parts) == {"loss", "mse", "depth", "opacity", "scale", "psnr"}
    weighted = parts["mse"] + 0.1 * parts["depth"] + 0.01 * parts["opacity"] + 0.1 * parts["scale"]
    torch.testing.assert_close(parts["loss"], weighted)
    parts["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_validation_covers_seen_and_unseen_views(folders) -> None:
    task = make_config(folders).create(seed=0)
    validation = task.validate(task.build().eval())
    assert set(validation.scalars) == {"psnr_seen", "psnr_unseen", "log_depth_error"}
    assert validation.scalars["psnr_seen"] > 5
    assert validation.images["clip_0"].shape == (3, 64, 48 * 6)


def test_a_new_model_starts_with_the_fitted_colours(folders) -> None:
    task = make_config(folders).create(seed=0)
    with_skip = task.validate(task.build().eval()).scalars
    without = make_config(folders, model=MODEL.model_copy(update={"color_skip": False}))
    plain = without.create(seed=0)
    assert with_skip["psnr_seen"] > plain.validate(plain.build().eval()).scalars["psnr_seen"] + 1


def test_a_later_stage_starts_from_the_earlier_ones_weights(folders) -> None:
    task = make_config(folders).create(seed=0)
    model = task.build()
    task.export(model, folders["root"] / "stage1")
    again = make_config(folders, init_from=folders["root"] / "stage1").create(seed=1).build()
    assert torch.equal(model.fuse.weight, again.fuse.weight)
    assert again.config.latent_probes == latent_probes(task.autoencoder)
    other = MODEL.model_copy(update={"width": 64})
    wrong = make_config(folders, init_from=folders["root"] / "stage1", model=other)
    with pytest.raises(UserError, match=r"width is 32, but the recipe's task\.model\.width is 64"):
        wrong.create(seed=0).build()


def test_a_later_stage_on_other_latents_is_refused(folders) -> None:
    task = make_config(folders).create(seed=0)
    task.export(task.build(), folders["root"] / "stage1")
    again = make_config(folders, init_from=folders["root"] / "stage1").create(seed=1)
    again.autoencoder = copy.deepcopy(again.autoencoder)
    with torch.no_grad():
        again.autoencoder.rest.analysis.weight.mul_(1.1)
    with pytest.raises(UserError, match="stage1 was trained on the latents of another autoencoder"):
        again.build()


def test_distance_of_a_plane_is_depth_over_the_rays_slope() -> None:
    cameras = batch_cameras(
        {
            "input_frames": torch.zeros(1, 1, 3, 4, 6),
            "input_world_to_camera": torch.eye(4)[None, None],
            "input_intrinsics": torch.tensor([[3.0, 0, 3], [0, 3, 2], [0, 0, 1]])[None, None],
        },
        "input",
    )
    distance = losses.half_resolution_distance(torch.full((1, 1, 4, 6), 2.0), cameras)
    x, y = (torch.tensor([1.0, 3, 5]) - 3) / 3, (torch.tensor([1.0, 3]) - 2) / 3
    expected = 2 * (1 + x[None, :] ** 2 + y[:, None] ** 2).sqrt()
    torch.testing.assert_close(distance[0, 0], expected)


def test_unknown_depth_does_not_count() -> None:
    """Each clip counts the same, however much of it is known, so that ranks can share a batch."""
    predicted = torch.tensor([[1.0, 5.0, 2.0], [3.0, 8.0, 1.0], [1.0, 2.0, 3.0]])
    target = torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = (torch.tensor(2.0).log() / 2 + torch.tensor(8.0).log() + 0) / 3
    torch.testing.assert_close(losses.log_distance_loss(predicted, target), expected)


@pytest.fixture(scope="module")
def stored(folders) -> Path:
    """Three of the clips with latents of all their windows."""
    index = write_shards([make_clip(seed, SCENES) for seed in range(3)], folders["root"] / "stored")
    codec = LinearCodec.from_pretrained(folders["codec"])
    write_latents(index, codec, folders["codec"], WindowConfig(num_frames=9))
    return index.folder


def write_pathlike(folders: dict[str, Path], name: str, key: str, generated: bool) -> Path:
    """Four clips without depth and without views but the path's, with latents of one window.

    The latents are a number each, so that it shows where they go.
    """
    folder = folders["root"] / name
    recipe = {**latents_recipe(folders["codec"], 9), GENERATED: generated}
    with PairedWriter(folder, LATENTS, recipe={}, tensors_recipe=recipe, expected=4) as writer:
        for number in range(4):
            clip = make_clip(number, SCENES).select(list(range(9)))
            clip = Clip(clip.frames, clip.cameras, f"generated/{number}", 9)
            latents = torch.full((4, 3, 4, 6), 10.0 + number)
            writer.add(number, clip, {key: latents, f"{key}.scale": torch.tensor(1.0)})
    return folder


@pytest.fixture(scope="module")
def generated(folders) -> Path:
    """Clips as the video model makes them."""
    return write_pathlike(folders, "generated", "from0_step1", generated=True)


def first_batch(config: ReconstructionConfig) -> dict[str, torch.Tensor]:
    return next(iter(config.create(seed=0).loader(rank=0, world_size=1, start=0)))


def test_stored_latents_are_those_of_the_frames_they_come_with(folders, stored) -> None:
    """Forwards, backwards and mirrored, each as often as configured."""
    batch = first_batch(make_config(folders, data=[stored], batch_size=24))
    assert "has_latents" not in batch
    codec = LinearCodec.from_pretrained(folders["codec"])
    expected = codec.encode(batch["input_frames"])
    torch.testing.assert_close(batch["latents"], expected, atol=6e-3, rtol=2e-3)
    index = ShardIndex.load(stored)
    windows = [Window(f, s, m) for f, s in ((0, 1), (8, -1)) for m in (False, True)]
    known = [(w, load_window(open_clip(index, n), w, 9).frames) for n in range(3) for w in windows]
    found = [next(w for w, x in known if torch.equal(x, f)) for f in batch["input_frames"]]
    assert set(found) == set(windows)
    forwards = {"num_input": 9, "num_seen": 2, "num_unseen": 2}
    config = make_config(folders, data=[stored], mirror_probability=0.0, views=forwards)
    for frames in first_batch(config)["input_frames"]:
        assert next(w for w, x in known if torch.equal(x, frames)) == Window(0, 1)


def test_the_truth_scores_as_the_truth_from_stored_windows_too(folders, stored) -> None:
    task = make_config(folders, data=[stored], scale_jitter=0.5, batch_size=6).create(seed=0)
    batch = next(iter(task.loader(rank=0, world_size=1, start=0)))
    parts = task.losses(Oracle(batch), batch, torch.Generator())
    assert parts["psnr"] > 18
    assert parts["depth"] < 1e-4


def test_generated_clips_are_mixed_with_real_ones(folders, generated) -> None:
    """Theirs go in as they are stored, the real ones' are encoded; decoded frames supervise."""
    mix = {"data": [folders["shards"], generated], "data_weights": [1.0, 1.0], "batch_size": 12}
    task = make_config(folders, **mix).create(seed=0)
    batch = next(iter(task.loader(rank=0, world_size=1, start=0)))
    made = batch["has_latents"]
    assert 2 <= int(made.sum()) <= 10
    latents = task.latents(batch)
    assert set(latents[made].unique().tolist()) <= {10.0, 11.0, 12.0, 13.0}
    real = task.autoencoder.encode(batch["input_frames"][~made])
    torch.testing.assert_close(latents[~made], real)
    for frames, targets in zip(
        batch["input_frames"][made], batch["target_frames"][made], strict=True
    ):
        assert all(any(torch.equal(target, frame) for frame in frames) for target in targets)
    assert (batch["input_depth"][made] == 0).all()
    assert (batch["input_depth"][~made] > 0).any()
    model = task.build()
    task.losses(model, batch, torch.Generator())["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_generated_clips_can_be_encoded_again_for_comparison(folders, generated) -> None:
    views = {"num_input": 9, "num_seen": 4, "num_unseen": 0}
    batch = first_batch(make_config(folders, data=[generated], latents="encode", views=views))
    assert "latents" not in batch


def test_latents_that_do_not_suit_are_refused(folders, stored, generated, tmp_path) -> None:
    with pytest.raises(UserError, match=r"shards: has no stored latents; make them with"):
        make_config(folders, data=[stored, folders["shards"]], latents="stored").create(seed=0)
    backwards = write_pathlike(folders, "backwards", "from8_step-1", generated=False)
    forwards = make_config(folders, data=[backwards], views={"num_input": 9})
    with pytest.raises(UserError, match=r"no stored latents .* allows; stored are from8_step-1"):
        first_batch(forwards)
    codec = LinearCodec.from_pretrained(folders["codec"])
    with torch.no_grad():
        codec.first.analysis.weight.mul_(2)
    codec.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"its autoencoder is \w+, but this run's is \w+"):
        make_config(folders, data=[generated], autoencoder=tmp_path / "other").create(seed=0)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "configs").glob("[fst]*/reconstruction*.yaml")),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_recipes_are_valid(path: Path) -> None:
    assert load_config(path, [], Recipe).task.kind == "reconstruction"


def test_stage_two_goes_on_from_the_bundled_model() -> None:
    task = load_config(ROOT / "configs/tiny/reconstruction_stage2.yaml", [], Recipe).task
    bundled = read_config(TINY_LALRM, LaLRMConfig, "lalrm")
    assert task.model == bundled.model_copy(update={"latent_probes": None})
    assert (ROOT / task.init_from).resolve() == TINY_LALRM
