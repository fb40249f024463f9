"""The autoencoder task: trains a video autoencoder, linear or CogVideoX, to reconstruct clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from configs.loader import Config
from data.loader import ClipLoader, mixture
from data.shard_index import ShardIndex
from data.shard_samples import ShardClip
from data.shards import open_clip
from models.autoencoders.cogvideox import CogVideoXAutoencoder, CogVideoXAutoencoderConfig
from models.autoencoders.interface import num_latent_frames
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.perceptual import PerceptualLoss
from train.randomness import SampleDraws
from train.task import Validation
from train.tasks.frame_size import check_frame_sizes


class LinearModel(LinearCodecConfig):
    """The linear codec, started in closed form."""

    kind: Literal["linear"] = "linear"


class CogVideoXModel(CogVideoXAutoencoderConfig):
    """A CogVideoX autoencoder from random weights."""

    kind: Literal["cogvideox"] = "cogvideox"


class AutoencoderLossConfig(Config):
    """Weights of the loss's parts; ours."""

    may_change: ClassVar = frozenset({"perceptual_at_once"})

    mse: float = Field(1.0, ge=0)
    perceptual: float = Field(0.0, ge=0)
    perceptual_weights: Path | None = None
    perceptual_at_once: int | None = Field(
        None,
        gt=0,
        description="frames that go through its network together, to save memory: what they keep there is"
        " computed again in the backward pass; null: all of them, and kept",
    )
    kl: float = Field(0.0, ge=0, description="CogVideoX only: per latent value")


class AutoencoderConfig(Config):
    """Everything that the autoencoder task needs beside the loop's own settings."""

    may_change: ClassVar = frozenset({"frame_size", "num_workers", "max_damaged_share"})

    kind: Literal["autoencoder"] = "autoencoder"
    model: Annotated[LinearModel | CogVideoXModel, Field(discriminator="kind")]
    data: list[Path] = Field(min_length=1)
    validation_data: Path
    frame_size: tuple[int, int] | None = Field(
        None,
        description="height and width [px] that the shards' frames must have; `plan` needs it where there are"
        " no shards yet",
    )
    num_validation_clips: int = Field(32, gt=0)
    num_frames: int = Field(17, gt=0)
    batch_size: int = Field(8, gt=0)
    num_workers: int = Field(1, ge=0)
    max_damaged_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="of the clips, those that may be unreadable before the run stops",
    )
    fit_clips: int = Field(512, gt=0, description="clips for closed-form fits and statistics")
    loss: AutoencoderLossConfig = AutoencoderLossConfig()

    def create(self, seed: int) -> AutoencoderTask:
        return AutoencoderTask.open(self, seed)


class AutoencoderTask:
    """Implements `train.task.Task` for video autoencoders."""

    validation_frames: Tensor

    def __init__(
        self, config: AutoencoderConfig, seed: int, *, perceptual: PerceptualLoss | None = None
    ) -> None:
        """A task that builds its model and computes losses, and reads no shards; `open` gives a whole one."""
        num_latent_frames(config.num_frames)
        self.config, self.seed, self.perceptual = config, seed, perceptual
        self.indices: list[ShardIndex] = []

    @classmethod
    def open(cls, config: AutoencoderConfig, seed: int) -> AutoencoderTask:
        """The task with all that `config` names. Raises UserError where something is missing or unfit."""
        weights, perceptual = config.loss, None
        if weights.perceptual:
            at_once = weights.perceptual_at_once
            perceptual = PerceptualLoss(weights.perceptual_weights, at_once=at_once)
        task = cls(config, seed, perceptual=perceptual)
        task.indices = [ShardIndex.load(folder) for folder in config.data]
        check_frame_sizes(task.indices, config.frame_size)
        validation = ShardIndex.load(config.validation_data)
        task.validation_frames = task._first_clips(validation, config.num_validation_clips)
        return task

    def build(self) -> LinearCodec | CogVideoXAutoencoder:
        """The linear codec fitted in closed form (where there are shards), or a new CogVideoX autoencoder."""
        if isinstance(self.config.model, LinearModel):
            codec = LinearCodec(LinearCodecConfig(**self.config.model.model_dump(exclude={"kind"})))
            if self.indices:
                codec.fit(self._first_clips(self.indices[0], self.config.fit_clips))
            return codec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return CogVideoXAutoencoder.from_config(self.config.model)

    def loader(self, *, rank: int, world_size: int, start: int) -> ClipLoader:
        return ClipLoader(
            mixture(self.indices),
            batch_size=self.config.batch_size,
            seed=self.seed,
            transform=PathWindow(self.config.num_frames),
            num_workers=self.config.num_workers,
            rank=rank,
            world_size=world_size,
            start=start,
            max_damaged_share=self.config.max_damaged_share,
        )

    def losses(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Named parts; "loss" is their weighted sum, "psnr" is for reading only."""
        weights, frames = self.config.loss, batch["frames"]
        draws = SampleDraws(generator, batch, self.config.batch_size)
        output, kl = model(frames, draws.generators("posterior") if weights.kl else ())
        parts = {"mse": F.mse_loss(output.float(), frames)}
        if weights.kl:
            parts["kl"] = kl
        if self.perceptual is not None:
            self.perceptual.to(output.device)
            parts["perceptual"] = self.perceptual(output.float().clamp(0, 1), frames)
        total = sum(getattr(weights, name) * value for name, value in parts.items())
        with torch.no_grad():
            psnr = -10 * torch.log10(parts["mse"])
        return {"loss": total, **parts, "psnr": psnr}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Validation:
        """PSNR of fixed clips, for the first frame (coded alone) and the rest; a picture of four clips."""
        first, rest, images = [], [], {}
        for number, frames in enumerate(self.validation_frames):
            output = model(frames[None])[0][0].float().clamp(0, 1)
            psnr = -10 * torch.log10(
                (output - frames).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
            )
            first.append(float(psnr[0]))
            rest.append(float(psnr[1:].mean()))
            if number < 4:
                views = [0, len(frames) // 2, len(frames) - 1]
                rows = [torch.cat(list(x[views]), dim=-1) for x in (frames, output)]
                images[f"clip_{number}"] = torch.cat(rows, dim=-2)
        num_rest = self.config.num_frames - 1
        means = {"psnr_first": sum(first) / len(first), "psnr_rest": sum(rest) / len(rest)}
        overall = (means["psnr_first"] + num_rest * means["psnr_rest"]) / (num_rest + 1)
        return Validation(scalars={"psnr": overall, **means}, images=images)

    def export(self, model: nn.Module, folder: Path) -> None:
        """Sets the latents' scale from training clips, then saves."""
        assert isinstance(model, LinearCodec | CogVideoXAutoencoder)
        model.standardise(self._first_clips(self.indices[0], 32))
        model.save_pretrained(folder)

    def _first_clips(self, index: ShardIndex, count: int) -> Tensor:
        window: Callable[..., dict[str, Tensor]] = PathWindow(self.config.num_frames)
        generator = torch.Generator().manual_seed(self.seed)
        clips = [window(open_clip(index, i), generator) for i in range(min(count, len(index)))]
        return torch.stack([clip["frames"] for clip in clips])


class PathWindow:
    """Takes a random run of consecutive path frames; runs in the loader's workers."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames

    def __call__(self, handle: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        slack = max(0, handle.num_path_frames - self.num_frames)
        start = int(torch.randint(slack + 1, (), generator=generator))
        return {"frames": handle.load(range(start, start + self.num_frames)).frames}
