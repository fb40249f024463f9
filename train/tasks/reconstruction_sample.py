"""One training sample of the reconstruction task: input frames or their latents, views to supervise, cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.clip_windows import Window
from data.shard_samples import ShardClip
from data.views import ViewSampler, ViewSamplerConfig, load_selection
from models.autoencoders.latent_shards import LATENTS

DEPTH_LIMIT = 30.0
"""Depths beyond this many scene units (sky) are supervised as lying here."""


@dataclass(frozen=True)
class StoredInputs:
    """Folders whose clips go in as stored latents.

    folders: by folder, whether a video model made its clips.
    shape: (c, p, h, w) of a clip's latents.
    complete: whether there is no other folder, so that every sample has its latents.
    """

    folders: dict[Path, bool]
    shape: tuple[int, int, int, int]
    complete: bool = False


class ReconstructionSample:
    """Turns a lazy clip into one sample; runs in the loader's workers.

    stored: with it, every sample has `latents`, zeros where `has_latents` is false; there is no `has_latents`
        where they are complete. Of generated clips all supervision views are input frames, since there are no
        others.
    """

    def __init__(
        self,
        views: ViewSamplerConfig,
        *,
        mirror_probability: float = 0.0,
        scale_jitter: float = 0.0,
        stored: StoredInputs | None = None,
    ) -> None:
        self.sampler = ViewSampler(views)
        num_views = views.num_seen + views.num_unseen
        self.seen_sampler = ViewSampler(
            views.model_copy(update={"num_seen": num_views, "num_unseen": 0})
        )
        self.mirror_probability, self.scale_jitter = mirror_probability, scale_jitter
        self.stored = stored

    def __call__(self, handle: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        counts = (handle.num_frames, handle.num_path_frames)
        latents = None
        if self.stored is not None and handle.file.parent in self.stored.folders:
            generated = self.stored.folders[handle.file.parent]
            tensors = handle.tensors(LATENTS)
            window = self._stored_window(handle, tensors, generated, generator)
            latents, mirrored = tensors[window.key].float(), window.mirrored
            sampler = self.seen_sampler if generated else self.sampler
            given = window.views(self.sampler.config.num_input)
            inputs, targets = load_selection(handle, sampler.around(given, *counts, generator))
        else:
            inputs, targets = load_selection(handle, self.sampler.sample(*counts, generator))
            mirrored = bool(torch.rand((), generator=generator) < self.mirror_probability)
        if mirrored:
            inputs, targets = inputs.mirrored(), targets.mirrored()
        factor = 1.0
        if self.scale_jitter:
            factor = math.exp(self.scale_jitter * float(torch.randn((), generator=generator)))
        depth = inputs.depth if inputs.depth is not None else torch.zeros(inputs.frames[:, 0].shape)
        sample = {"input_depth": depth.clamp(max=DEPTH_LIMIT) / factor}
        for prefix, clip in (("input", inputs), ("target", targets)):
            cameras = clip.cameras.rescaled(factor)
            sample[f"{prefix}_frames"] = clip.frames
            sample[f"{prefix}_world_to_camera"] = cameras.world_to_camera
            sample[f"{prefix}_intrinsics"] = cameras.intrinsics
        if self.stored is not None:
            if not self.stored.complete:
                sample["has_latents"] = torch.tensor(latents is not None)
            sample["latents"] = torch.zeros(self.stored.shape) if latents is None else latents
        return sample

    def _stored_window(
        self,
        handle: ShardClip,
        tensors: dict[str, Tensor],
        generated: bool,
        generator: torch.Generator,
    ) -> Window:
        """One of the clip's stored windows; backwards and mirrored as often as configured, where there are such."""
        views = self.sampler.config
        found = [window for key in tensors if (window := Window.from_key(key)) is not None]
        allowed = sorted(
            window
            for window in found
            if generated
            or (
                abs(window.step) in views.strides
                and (window.step > 0 or views.reverse_probability > 0)
                and (not window.mirrored or self.mirror_probability > 0)
            )
        )
        if not allowed:
            raise UserError(
                f"{handle.file}: no stored latents of clip {handle.key} are of a window that task.views"
                f" allows; stored are {', '.join(sorted(w.key for w in found))}: set task.latents=encode, or"
                " make others with `./launch.sh prepare latents --overwrite`"
            )
        backwards, mirrored = (
            bool(torch.rand((), generator=generator) < share)
            for share in (views.reverse_probability, self.mirror_probability)
        )
        wanted = [w for w in allowed if (w.step < 0, w.mirrored) == (backwards, mirrored)]
        chosen = wanted or allowed
        return chosen[int(torch.randint(len(chosen), (), generator=generator))]


def batch_cameras(batch: dict[str, Tensor], prefix: str) -> Cameras:
    """The batched cameras that belong to `prefix`_frames."""
    height, width = batch[f"{prefix}_frames"].shape[-2:]
    return Cameras(batch[f"{prefix}_world_to_camera"], batch[f"{prefix}_intrinsics"], height, width)
