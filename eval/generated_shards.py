"""Clips that the video model made, as training data: decoded frames, cameras, and its own latents beside them.

Wonderland, sec. 4.1: LaLRM's second stage takes in generated latents and is supervised by their decoded frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from data.camera_paths import PATHS
from data.cameras import Cameras
from data.clip_windows import Window
from data.clips import Clip
from data.paired_shards import PairedWriter
from eval.first_frames import FirstFrame, FirstFrames
from eval.path_argument import path_from_argument
from models.autoencoders.latent_shards import SCALE_SUFFIX
from models.generated_scene import GeneratedScene
from models.pipeline import ImageToScenePipeline
from models.video.sampling import OnStep, SamplingConfig
from train.randomness import derive_seed

OWN_PATH = "own"
"""Stands for the path that was really taken from an image, where that is known."""


@dataclass(frozen=True)
class ClipPlan:
    """Which path and noise each clip gets: a function of (seed, number) and these settings alone.

    paths: one is drawn for each clip: path arguments as `generate` takes them, or `OWN_PATH`.
    strength: share of a named path's usual amplitude, drawn between the two, in either direction; a path with an
        amplitude of its own, a joined one and one from a file stay as they are.
    """

    seed: int
    num_frames: int
    paths: tuple[str, ...]
    strength: tuple[float, float]

    def check(self, images: FirstFrames) -> None:
        """Raises UserError where settings make no sense together."""
        low, high = self.strength
        if not 0 < low <= high:
            raise UserError(f"strength is {low:g} to {high:g}; expected 0 < lower <= upper")
        if OWN_PATH in self.paths and not images.has_paths:
            raise UserError(
                f"path {OWN_PATH!r} is the one that was taken from an image: photographs have none; name"
                " other paths, or give shards or procedural scenes as images"
            )

    def path(self, number: int, image: FirstFrame) -> tuple[str, Cameras]:
        """The path of clip `number` in words, and its cameras; raises UserError where it can't be followed."""
        generator = torch.Generator().manual_seed(derive_seed("generated path", self.seed, number))
        text = self.paths[int(torch.randint(len(self.paths), (), generator=generator))]
        if text == OWN_PATH:
            if image.path is None:
                raise UserError(
                    f"{image.photo.source}: its own path is shorter than {self.num_frames} frames; leave"
                    f" {OWN_PATH!r} out of the paths"
                )
            return text, image.path
        if text in PATHS:
            low, high = self.strength
            share = low + (high - low) * float(torch.rand((), generator=generator))
            sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
            limit = PATHS[text].limit
            amplitude = max(-limit, min(limit, sign * share * PATHS[text].amplitude))
            text = f"{text}:{amplitude:.4g}"
        return text, path_from_argument(text, image.photo.camera, self.num_frames)

    def noise_seed(self, number: int) -> int:
        return derive_seed("generated noise", self.seed, number)

    def describe(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "num_frames": self.num_frames,
            "paths": list(self.paths),
            "strength": list(self.strength),
        }


def write_generated_clips(
    writer: PairedWriter,
    pipeline: ImageToScenePipeline,
    images: FirstFrames,
    plan: ClipPlan,
    *,
    batch_size: int = 1,
    sampling: SamplingConfig | None = None,
    progress: Callable[[int], None] = lambda clips: None,
    on_step: OnStep | None = None,
) -> None:
    """Adds the clips that the writer wants; clip i is a function of image i, the plan and the models.

    progress: called with the number of clips added since its last call. Raises UserError where an image or a path
    can't be used, and where the video model has no camera branches, without which videos would not show what
    their cameras say.
    """
    if pipeline.model.branches is None:
        raise UserError(
            "the video model has no camera branches, so its videos do not follow cameras: name branches with"
            " --camera-branches"
        )
    if plan.num_frames > pipeline.clip_frames:
        raise UserError(
            f"{plan.num_frames} frames are more than the video model's clips of {pipeline.clip_frames} have;"
            f" use {pipeline.clip_frames} or fewer"
        )
    for numbers in writer.batches(batch_size):
        starts = [images.load(number) for number in numbers]
        planned = [plan.path(n, start) for n, start in zip(numbers, starts, strict=True)]
        scenes = pipeline.generate(
            [start.photo for start in starts],
            [path for _, path in planned],
            [plan.noise_seed(number) for number in numbers],
            sampling=sampling,
            on_step=on_step,
        )
        for number, (text, _), scene in zip(numbers, planned, scenes, strict=True):
            source = f"generated/{number:08d} from {scene.source} along {text}"
            writer.add(number, _clip(scene, source), _latents(scene))
            progress(1)


def _clip(scene: GeneratedScene, source: str) -> Clip:
    frames = scene.video.cpu().float()
    return Clip(frames, scene.cameras.to("cpu"), source, num_path_frames=len(frames))


def _latents(scene: GeneratedScene) -> dict[str, Tensor]:
    """As `prepare latents` stores them: the whole clip is one window, whose unit is the clip's."""
    (latents,) = scene.latents
    stored = latents.cpu().half()
    if not torch.isfinite(stored).all():
        raise UserError(f"{scene.source}: the video model's latents are too large to be stored")
    key = Window(0, 1).key
    return {key: stored, key + SCALE_SUFFIX: torch.tensor(1.0)}
