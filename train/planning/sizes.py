"""Sizes of what a recipe names but is not here: its weights, and the frames of its shards."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from configs.errors import UserError
from configs.loader import load_config
from data.shard_index import CLIPS, ShardIndex, index_file
from models.autoencoders.cogvideox import CogVideoXAutoencoder
from models.autoencoders.files import outline_autoencoder
from models.autoencoders.interface import SPATIAL_FACTOR
from models.autoencoders.linear_codec import LinearCodec
from models.pretrained import CONFIG_FILE
from models.video.base import TRANSFORMER_FOLDER, VideoBase, create_base, outline_base
from train.tasks.frame_size import check_frame_sizes
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig

ROOT = Path(__file__).resolve().parents[2]
WRITTEN_OUT = ROOT / "configs" / "full"
"""Settings of published models, each under its name, as diffusers stores them."""


def autoencoder_in(folder: Path, notes: list[str]) -> CogVideoXAutoencoder | LinearCodec:
    """The autoencoder of a folder on the meta device, from settings alone."""
    return outline_autoencoder(settings_folder(folder, CONFIG_FILE, notes))


def base_in(
    folder: Path, dtype: torch.dtype, recipe_file: Path | None, notes: list[str]
) -> VideoBase:
    """The video base of a folder on the meta device, from its settings or from the recipe that trains it."""
    if not folder.exists():
        found = _trained_by(folder, recipe_file)
        if found is not None:
            path, config = found
            assert config.new_base is not None
            notes.append(f"{folder} is not here: its sizes are from {path}, which makes it")
            with torch.device("meta"):
                base = create_base(config.new_base)
            nn.Module.to(base.transformer, dtype)
            return base
    inside = f"{TRANSFORMER_FOLDER}/{CONFIG_FILE}"
    return outline_base(settings_folder(folder, inside, notes), dtype)


def frame_size(
    folders: list[Path],
    wanted: tuple[int, int] | None,
    base: VideoBase | None,
    notes: list[str],
) -> tuple[int, int]:
    """Height and width of the frames: of the shards that are here, else the recipe's, else the base's.

    Raises UserError where nothing tells them.
    """
    found = [folder for folder in folders if (folder / index_file(CLIPS)).is_file()]
    if found:
        return check_frame_sizes([ShardIndex.load(folder) for folder in found], wanted)
    if wanted is not None:
        return wanted
    if base is not None:
        config = base.transformer.config
        size = (SPATIAL_FACTOR * config.sample_height, SPATIAL_FACTOR * config.sample_width)
        notes.append(
            f"{folders[0]} is not here: frames are taken to be {size[0]}x{size[1]}, as the base's"
        )
        return size
    raise UserError(
        f"{folders[0]} is not here, and the recipe doesn't say how large its frames are; prepare the shards, or"
        " add task.frame_size=[HEIGHT,WIDTH]"
    )


def settings_folder(folder: Path, inside: str, notes: list[str]) -> Path:
    """`folder` if it is here, else where the settings of the model of that name are written out.

    inside: the file in it that tells. notes: gets a sentence where they are written out. Raises UserError where the
    sizes aren't known.
    """
    if (folder / inside).is_file():
        return folder
    for start in range(len(folder.parts)):
        candidate = WRITTEN_OUT.joinpath(*folder.parts[start:])
        if not folder.is_absolute() and (candidate / inside).is_file():
            notes.append(f"{folder} is not here: its sizes are from {candidate.relative_to(ROOT)}")
            return candidate
    known = ", ".join(sorted(p.name for p in WRITTEN_OUT.iterdir() if p.is_dir()))
    raise UserError(
        f"{folder / inside} is missing, so the sizes of that model aren't known; bring its settings, or name a"
        f" folder called as one of those in configs/full: {known}"
    )


def _trained_by(folder: Path, recipe_file: Path | None) -> tuple[Path, VideoConfig] | None:
    """The recipe beside `recipe_file` whose run exports the base that lies in `folder`."""
    if recipe_file is None:
        return None
    for path in sorted(recipe_file.parent.glob("*.yaml")):
        try:
            recipe = load_config(path, [], Recipe)
        except UserError:  # another kind of recipe
            continue
        task = recipe.task
        makes = recipe.runs_root / recipe.name / "weights" / "base"
        if makes == folder and isinstance(task, VideoConfig) and task.new_base is not None:
            return path, task
    return None
