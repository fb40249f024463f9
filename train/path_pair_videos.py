"""Videos that a model draws along the two paths of a scene, from the same first frame and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import stack_cameras
from data.clips import Clip
from models.autoencoders.interface import VideoAutoencoder
from models.video.model import VideoModel
from models.video.sampling import SamplingConfig, VideoSampler

Video = Float[Tensor, "t 3 h w"]


@dataclass(frozen=True)
class VideoDrawing:
    """How videos are drawn, whichever the model and the clips.

    noise: the generator for the clip of a number, so that each clip has the same noise for every model.
    batch_size: clips at once.
    text: the embedding that all clips get; None is the zero embedding.
    """

    autoencoder: VideoAutoencoder
    sampling: SamplingConfig
    noise: Callable[[int], torch.Generator]
    batch_size: int
    text: Float[Tensor, "n e"] | None = None

    def pairs(
        self, model: VideoModel, pairs: Sequence[tuple[Clip, Clip]]
    ) -> list[tuple[Video, Video]]:
        """Videos along each scene's own path and its mirrored one, in [0, 1], on the CPU.

        A model without camera branches gives both paths the same video.
        """
        own = self.clips(model, [pair[0] for pair in pairs])
        steered = model.branches is not None
        mirrored = self.clips(model, [pair[1] for pair in pairs]) if steered else own
        return list(zip(own, mirrored, strict=True))

    @torch.no_grad()
    def clips(self, model: VideoModel, clips: Sequence[Clip]) -> Float[Tensor, "n t 3 h w"]:
        """Videos from the clips' first frames along their cameras, in [0, 1], on the CPU."""
        device = model.base.device
        sampler = VideoSampler(model)
        videos = []
        for start in range(0, len(clips), self.batch_size):
            part = clips[start : start + self.batch_size]
            first = torch.stack([clip.frames[:1] for clip in part]).to(device)
            cameras = stack_cameras([clip.cameras for clip in part]).to(device)
            latents = sampler.sample(
                self.autoencoder.encode(first).float(),
                part[0].num_frames,
                [self.noise(start + number) for number in range(len(part))],
                self.sampling,
                cameras=cameras if model.branches is not None else None,
                text=self.text,
            )
            videos.append(self.autoencoder.decode(latents).float().clamp(0, 1).cpu())
        return torch.cat(videos)
