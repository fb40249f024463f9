"""Validation of the video model: losses at fixed noise levels, and samples along known paths.

The samples start from fixed noise, on procedural scenes whose true clips are known for a path and its
opposite, so that progress shows as pictures and as camera agreement.
"""

from __future__ import annotations

from functools import cached_property, partial

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from configs.loader import Config
from data.cameras import Cameras, stack_cameras
from data.clip_windows import Window, load_window
from data.clips import Clip
from data.procedural.config import SceneConfig
from data.procedural.path_pairs import make_path_pair
from data.shard_index import ShardIndex
from data.shards import open_clip
from models.autoencoders.interface import VideoAutoencoder
from models.video.model import VideoModel
from models.video.sampling import SamplingConfig
from train.camera_agreement import CameraAgreement, camera_agreement, summarise
from train.path_pair_videos import VideoDrawing
from train.randomness import derive_seed
from train.task import Validation

LOSS_TIMESTEPS = (250, 500, 750, 999)
"""Noise levels at which the loss is measured."""
SHOWN_FRAMES = 5
NUM_PICTURES = 4


class VideoValidationConfig(Config):
    """What validation costs and covers. The scenes' seeds are far from any training set's."""

    num_clips: int = Field(32, ge=0, description="clips of validation_data whose loss is measured")
    num_scenes: int = Field(8, ge=0, description="scenes with two paths that are sampled")
    first_seed: int = Field(810_000_000, ge=0)
    travel: tuple[float, float] = Field(
        (0.15, 0.45), description="length of the paths, in median depths"
    )
    sampling: SamplingConfig = SamplingConfig(steps=20)
    batch_size: int = Field(8, gt=0, description="clips sampled at once")


class VideoValidation:
    """Fixed clips and scenes with fixed noise, and how a model does on them."""

    def __init__(
        self,
        config: VideoValidationConfig,
        index: ShardIndex,
        autoencoder: VideoAutoencoder,
        *,
        num_frames: int,
        steered: bool,
        text: Float[Tensor, "n e"] | None = None,
    ) -> None:
        """text: the embedding that all clips get; None is the zero embedding."""
        self.config, self.autoencoder, self.text = config, autoencoder, text
        self.index, self.num_frames, self.steered = index, num_frames, steered
        self.drawing = VideoDrawing(
            autoencoder, config.sampling, partial(_generator, "sample"), config.batch_size, text
        )

    @cached_property
    def clips(self) -> list[Clip]:
        """The first clips of the validation set, from their start."""
        numbers = range(min(self.config.num_clips, len(self.index)))
        return [
            load_window(open_clip(self.index, n), Window(0, 1), self.num_frames) for n in numbers
        ]

    @cached_property
    def pairs(self) -> list[tuple[Clip, Clip]]:
        """The true clips of each scene's own and mirrored path."""
        first = self.config.first_seed
        scenes = SceneConfig(
            height=self.index.height,
            width=self.index.width,
            num_frames=self.num_frames,
            travel=self.config.travel,
        )
        return [make_path_pair(first + n, scenes) for n in range(self.config.num_scenes)]

    @torch.no_grad()
    def run(self, model: VideoModel) -> Validation:
        """Losses by noise level, camera agreement (of a steered model), movement, and pictures."""
        device = next(model.parameters()).device
        if isinstance(self.autoencoder, nn.Module):
            self.autoencoder.to(device)
        scalars = self._losses(model, device)
        images = {}
        if self.pairs:
            videos = self.drawing.pairs(model, self.pairs)
            scores = [camera_agreement(t, v) for t, v in zip(self.pairs, videos, strict=True)]
            scalars |= self._report(scores)
            own = torch.stack([video for video, _ in videos])
            scalars["movement"] = _movement([pair[0] for pair in self.pairs], own)
            for number, (truth, video) in enumerate(zip(self.pairs, videos, strict=True)):
                if number < NUM_PICTURES:
                    images[f"scene_{number}"] = _picture(truth, video, self.steered)
        return Validation(scalars=scalars, images=images)

    def _report(self, scores: list[CameraAgreement]) -> dict[str, float]:
        found = summarise(scores)
        return found if self.steered else {"psnr": found["psnr"]}

    def _losses(self, model: VideoModel, device: torch.device) -> dict[str, float]:
        """Mean squared error of the velocity at each of LOSS_TIMESTEPS, over all clips."""
        scheduler = model.base.scheduler
        sums = dict.fromkeys(LOSS_TIMESTEPS, 0.0)
        for start in range(0, len(self.clips), self.config.batch_size):
            clips = self.clips[start : start + self.config.batch_size]
            latents = self._encode(torch.stack([clip.frames for clip in clips]), device)
            for timestep in LOSS_TIMESTEPS:
                generator = _generator("loss", start, timestep)
                noise = torch.randn(latents.shape, generator=generator).to(device)
                timesteps = torch.full((len(clips),), timestep, device=device)
                noisy = scheduler.add_noise(latents, noise, timesteps)
                target = scheduler.get_velocity(latents, noise, timesteps)
                cameras = self._cameras(clips, device)
                text = (
                    None if self.text is None else self.text.to(device).expand(len(clips), -1, -1)
                )
                found = model(noisy, latents[:, :, :1], timesteps, text, cameras)
                error = (found.float() - target).square().mean(dim=(1, 2, 3, 4))
                sums[timestep] += float(error.sum())
        if not self.clips:
            return {}
        losses = {f"loss_at_{t}": value / len(self.clips) for t, value in sums.items()}
        return {"loss": sum(losses.values()) / len(losses), **losses}

    def _cameras(self, clips: list[Clip], device: torch.device) -> Cameras | None:
        return stack_cameras([clip.cameras for clip in clips]).to(device) if self.steered else None

    def _encode(self, frames: Tensor, device: torch.device) -> Tensor:
        return self.autoencoder.encode(frames.to(device)).float()


def _generator(*purpose: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed("video validation", *purpose))


def _movement(clips: list[Clip], videos: Float[Tensor, "n t 3 h w"]) -> float:
    """How much videos change from first frame to last, relative to the true clips: 0 for a still copy."""
    truth = torch.stack([(clip.frames[-1] - clip.frames[0]).square().mean() for clip in clips])
    found = (videos[:, -1] - videos[:, 0]).square().mean(dim=(1, 2, 3))
    return float((found.mean() / truth.mean()).sqrt())


def _picture(
    truth: tuple[Clip, Clip],
    videos: tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "t 3 h w"]],
    both: bool,
) -> Float[Tensor, "3 rows columns"]:
    """Truth above sample, of the own path and, for `both`, the mirrored one below; time runs rightwards."""
    rows = []
    for clip, video in list(zip(truth, videos, strict=True))[: 2 if both else 1]:
        views = torch.linspace(0, clip.num_frames - 1, SHOWN_FRAMES).round().long()
        rows += [torch.cat(list(frames[views]), dim=-1) for frames in (clip.frames, video)]
    return torch.cat(rows, dim=-2)
