"""Bytes that a training sample costs to read: the whole stored clip, and the tensors that go with it."""

from __future__ import annotations

import math
from pathlib import Path

from data.scene_clips import ClipRules
from data.shard_index import CLIPS, ShardIndex, index_file
from models.autoencoders.latent_shards import LATENTS
from train.planning.outline import Outline
from train.tasks.autoencoder import AutoencoderConfig
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig

BYTES_PER_PIXEL = 0.5
"""Of a frame as JPEG at quality 95: 0.27 to 0.66 over scikit-image's photographs at 720 px, 0.5 on average."""
HALF = 2
"""Bytes of a value of stored latents and text embeddings."""


def sample_bytes(outline: Outline) -> tuple[float, str]:
    """Mean bytes of a sample, and where the figure is from.

    A loader reads a clip's sample as a whole, whichever frames it then decodes.
    """
    config = outline.recipe.task
    sets = [CLIPS]
    if outline.stored_latents:
        sets.append(LATENTS)
    if isinstance(config, VideoConfig) and config.text is not None:
        sets.append(config.text)
    if all((folder / index_file(name)).is_file() for folder in config.data for name in sets):
        return _stored_bytes(config.data, sets), "as stored in the shards"
    return _expected_bytes(outline)


def _stored_bytes(folders: list[Path], sets: list[str]) -> float:
    total, clips = 0, 0
    for folder in folders:
        clips += len(ShardIndex.load(folder))
        for name in sets:
            total += sum(shard.bytes for shard in ShardIndex.load(folder, name).content.shards)
    return total / clips


def _expected_bytes(outline: Outline) -> tuple[float, str]:
    """As `prepare` makes clips of data sets: the longest path, and the usual number of extra views."""
    path, windows = _path_and_windows(outline.recipe)
    extra = ClipRules().num_extra
    height, width = outline.size
    total = BYTES_PER_PIXEL * (path + extra) * height * width
    said = f"expected of {path} + {extra} frames at {BYTES_PER_PIXEL} bytes a pixel"
    if outline.stored_latents:
        total += HALF * windows * math.prod(outline.sample["latents"])
        said += f", with latents of {windows} window{'s' if windows > 1 else ''}"
    if "text" in outline.sample:
        total += HALF * math.prod(outline.sample["text"])
        said += ", with text"
    return total, said


def _path_and_windows(recipe: Recipe) -> tuple[int, int]:
    """Frames of the shortest path that has all of a recipe's windows, and how many kinds of them there are."""
    task = recipe.task
    if isinstance(task, AutoencoderConfig):
        return task.num_frames, 0
    if isinstance(task, VideoConfig):
        frames, strides = task.windows.num_frames, task.windows.strides
        ways = (1 + task.windows.backwards) * (1 + task.windows.mirrored)
    else:
        frames, strides = task.views.num_input, task.views.strides
        ways = (1 + (task.views.reverse_probability > 0)) * (1 + (task.mirror_probability > 0))
    return (frames - 1) * max(strides) + 1, ways * len(strides)
