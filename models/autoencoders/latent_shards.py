"""Latents of shards' clips, computed once (`./launch.sh prepare latents`).

Each clip gets the latents of its windows (`data.clip_windows`), named by `Window.key`, beside the window's
scale. They are stored as a set of tensors in the shards' own folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from data.clip_windows import WindowConfig, window_scale
from data.shard_index import ShardIndex
from data.shard_parts import Existing
from data.shard_samples import ShardClip
from data.shard_writing import tensor_writer
from data.shards import open_clip
from data.work_share import ALL_WORK, WorkShare
from models.autoencoders.interface import VideoAutoencoder
from models.pretrained import weights_digest

LATENTS = "latents"
"""Name of the set of tensors."""
GENERATED = "generated"
"""Key of a set's recipe, true where a video model drew the latents and the frames are decoded from them."""
SCALE_SUFFIX = ".scale"
"""After a window's key: stored units per unit of the window."""


def write_latents(
    index: ShardIndex,
    autoencoder: VideoAutoencoder,
    weights: Path,
    windows: WindowConfig,
    *,
    hop: int = 8,
    device: torch.device | None = None,
    existing: Existing = "refuse",
    share: WorkShare = ALL_WORK,
    progress: Callable[[int], None] = lambda clips: None,
) -> int:
    """Adds latents (float16) to the clips of `index`; returns for how many that was left to do.

    weights: the autoencoder's folder, by whose content the latents are recognised later.
    existing, share: as for `ShardWriter`; "resume" goes on where an earlier call stopped.
    progress: called with the number of this process's clips that are done, then with those done since.
    """
    recipe = latents_recipe(weights, windows.num_frames) | {
        "windows": windows.model_dump(mode="json"),
        "hop": hop,
    }
    writer = tensor_writer(index, LATENTS, recipe=recipe, existing=existing, share=share)
    with writer:
        num_to_do = writer.num_to_do
        progress(writer.num_own - writer.num_to_do)
        for number in writer.numbers():
            writer.add_tensors(
                clip_latents(open_clip(index, number), autoencoder, windows, hop, device)
            )
            progress(1)
    return num_to_do


@torch.no_grad()
def clip_latents(
    clip: ShardClip,
    autoencoder: VideoAutoencoder,
    windows: WindowConfig,
    hop: int,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Latents `[c t' h' w']` (float16) and scale (float32) of the clip's windows, by their keys."""
    tensors: dict[str, Tensor] = {}
    shown: list[int] = []
    for window in windows.spread(clip.num_path_frames, hop):
        views = window.views(windows.num_frames)
        if sorted(views) != shown:  # windows of the same frames follow each other
            shown = sorted(views)
            forwards = clip.load(shown, depth=False).frames
        frames = forwards if window.step > 0 else forwards.flip(0)
        frames = frames.flip(-1) if window.mirrored else frames
        latents = autoencoder.encode(frames[None].to(device))[0].float().cpu()
        if not torch.isfinite(latents).all():
            raise UserError(f"{clip.file}: clip {clip.key}, {window.key}: latents are not finite")
        tensors[window.key] = latents.half()
        tensors[window.key + SCALE_SUFFIX] = torch.tensor(window_scale(clip, window))
    return tensors


def latents_recipe(autoencoder: Path, num_frames: int) -> dict[str, Any]:
    """By what stored latents are told to belong to an autoencoder: its files' content."""
    return {"autoencoder": weights_digest(autoencoder), "num_frames": num_frames}
