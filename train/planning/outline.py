"""A recipe's real task and model, built without weights or shards: what a plan is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from data.shard_index import CLIPS, ShardIndex, index_file
from models.autoencoders.interface import latent_shape
from models.perceptual import PerceptualLoss, outline_lpips
from train.planning.sizes import autoencoder_in, base_in, frame_size
from train.task import Task
from train.tasks.autoencoder import AutoencoderConfig, AutoencoderLossConfig, AutoencoderTask
from train.tasks.reconstruction import LossConfig, ReconstructionConfig, ReconstructionTask
from train.tasks.registry import Recipe
from train.tasks.stored_latents import has_stored_latents
from train.tasks.video import VideoConfig, VideoTask

Shapes = dict[str, tuple[int, ...]]


@dataclass
class Outline:
    """A task whose tensors are all on the meta device.

    model: as `task.build` gives it; its trainable parameters are what the engine gets.
    frozen: modules outside of `model` that a step runs, by name.
    sample: shapes of one training sample, without the batch axis; all are float32.
    size: height and width of the frames [px].
    tokens: what one clip is to the transformer, by kind; empty for a convolutional model.
    stored_latents: whether latents are read instead of made in each step.
    notes: what was looked up elsewhere or taken for granted, as sentences.
    """

    recipe: Recipe
    task: Task
    model: nn.Module
    frozen: dict[str, nn.Module]
    sample: Shapes
    size: tuple[int, int]
    tokens: dict[str, int]
    stored_latents: bool = False
    notes: list[str] = field(default_factory=list)


def outline_recipe(recipe: Recipe, file: Path | None = None) -> Outline:
    """The outline of a recipe, whose file may lie beside those that make what it needs.

    Raises UserError where the sizes of something can't be had.
    """
    if isinstance(recipe.task, VideoConfig):
        return _video(recipe, recipe.task, file)
    if isinstance(recipe.task, ReconstructionConfig):
        return _reconstruction(recipe, recipe.task)
    return _autoencoder(recipe, recipe.task)


def _video(recipe: Recipe, config: VideoConfig, file: Path | None) -> Outline:
    notes: list[str] = []
    half = config.base_dtype == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    base = None if config.base is None else base_in(config.base, dtype, file, notes)
    config = config.model_copy(
        update={"branches_from": None}
    )  # of the same sizes, by its own check
    autoencoder = autoencoder_in(config.autoencoder, notes)
    if base is None:
        with torch.device("meta"):
            base = VideoTask(config, 0, autoencoder=autoencoder, size=(0, 0)).make_base()
    size = frame_size(config.data, config.frame_size, base, notes)
    task = VideoTask(config, recipe.seed, autoencoder=autoencoder, size=size, base=base)
    with torch.device("meta"):
        model = task.build()
    frames = config.windows.num_frames
    stored = _stored(config.latents, config.data, config.autoencoder, frames, notes)
    settings = base.transformer.config
    sample: Shapes = {"world_to_camera": (frames, 4, 4), "intrinsics": (frames, 3, 3)}
    latents = latent_shape(frames, *size, autoencoder.latent_channels)
    sample |= {"latents": latents} if stored else {"frames": (frames, 3, *size)}
    if config.text is not None:
        sample["text"] = (settings.max_text_seq_length, settings.text_embed_dim)
    frozen: dict[str, nn.Module] = {"autoencoder": autoencoder}
    if not config.train_base:
        frozen["base"] = base.transformer
    tokens = {
        "visual": latents[1]
        * (latents[2] // settings.patch_size)
        * (latents[3] // settings.patch_size),
        "text": settings.max_text_seq_length,
    }
    return Outline(recipe, task, model, frozen, sample, size, tokens, stored, notes)


def _reconstruction(recipe: Recipe, config: ReconstructionConfig) -> Outline:
    notes: list[str] = []
    config = config.model_copy(update={"init_from": None})  # of the same sizes, by its own check
    autoencoder = autoencoder_in(config.autoencoder, notes)
    perceptual = _perceptual(config.loss)
    task = ReconstructionTask(config, recipe.seed, autoencoder=autoencoder, perceptual=perceptual)
    with torch.device("meta"):
        model = task.build()
    size = frame_size(config.data, config.frame_size, None, notes)
    frames, views = config.views.num_input, config.views.num_seen + config.views.num_unseen
    stored = _stored(config.latents, config.data, config.autoencoder, frames, notes)
    sample: Shapes = {"input_depth": (frames, *size)}
    for prefix, count in (("input", frames), ("target", views)):
        sample[f"{prefix}_frames"] = (count, 3, *size)
        sample[f"{prefix}_world_to_camera"] = (count, 4, 4)
        sample[f"{prefix}_intrinsics"] = (count, 3, 3)
    latents = latent_shape(frames, *size, autoencoder.latent_channels)
    if stored:
        sample["latents"] = latents
    patch = config.model.patch
    tokens = {"visual": latents[1] * (latents[2] // patch) * (latents[3] // patch)}
    frozen: dict[str, nn.Module] = {"autoencoder": autoencoder}
    if perceptual is not None:
        frozen["perceptual loss"] = perceptual
    return Outline(recipe, task, model, frozen, sample, size, tokens, stored, notes)


def _autoencoder(recipe: Recipe, config: AutoencoderConfig) -> Outline:
    notes: list[str] = []
    perceptual = _perceptual(config.loss)
    task = AutoencoderTask(config, recipe.seed, perceptual=perceptual)
    with torch.device("meta"):
        model = task.build()
    size = frame_size(config.data, config.frame_size, None, notes)
    sample: Shapes = {"frames": (config.num_frames, 3, *size)}
    frozen: dict[str, nn.Module] = {} if perceptual is None else {"perceptual loss": perceptual}
    return Outline(recipe, task, model, frozen, sample, size, {}, False, notes)


def _perceptual(weights: LossConfig | AutoencoderLossConfig) -> PerceptualLoss | None:
    if not weights.perceptual:
        return None
    return PerceptualLoss(at_once=weights.perceptual_at_once, network=outline_lpips("vgg"))


def _stored(
    choice: str, folders: list[Path], autoencoder: Path, num_frames: int, notes: list[str]
) -> bool:
    """Whether latents are read from the shards; where some are to be made, all are taken to be."""
    if choice != "auto":
        return choice == "stored"
    if not all((folder / index_file(CLIPS)).is_file() for folder in folders):
        notes.append(
            "without the shards it is not known whether they have latents: frames are taken to be encoded in"
            " each step; task.latents=stored plans without that"
        )
        return False
    indices = [ShardIndex.load(folder) for folder in folders]
    return all(has_stored_latents(index, autoencoder, num_frames) for index in indices)
