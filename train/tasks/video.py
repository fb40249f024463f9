"""The video task: trains the video model to denoise a clip's latents, given its first frame and cameras.

It trains a base from scratch, camera branches on a frozen base (Wonderland, sec. 3.2), or both together.
Losses are the mean squared error of the velocity v; image dropout and noise follow CogVideoX's
image-to-video training (arXiv 2408.06072, sec. 3).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from data.clip_windows import WindowConfig
from data.loader import ClipLoader, mixture
from data.shard_index import ShardIndex
from models.autoencoders.files import load_autoencoder
from models.autoencoders.identity import check_latents, latent_probes
from models.autoencoders.interface import VideoAutoencoder
from models.precision import full_precision
from models.video.base import VideoBase, VideoModelConfig, create_base, load_base, save_base
from models.video.camera_branch_files import load_branches, save_branches
from models.video.camera_branches import CameraBranches, CameraBranchesConfig
from models.video.model import VideoModel
from models.video.text_shards import StoredText, open_texts
from train.randomness import SampleDraws
from train.task import Validation
from train.tasks.frame_size import check_frame_sizes
from train.tasks.stored_latents import has_stored_latents
from train.tasks.video_sample import VideoSample
from train.tasks.video_validation import VideoValidation, VideoValidationConfig
from train.timesteps import TimestepConfig

logger = logging.getLogger(__name__)


class VideoConfig(Config):
    """Everything that the video task needs beside the loop's own settings.

    A base comes from `base` (a folder) or is new, of the sizes in `new_base`. It trains with `train_base`;
    otherwise it is frozen and the branches train on it. Both together are joint training.
    """

    may_change: ClassVar = frozenset(
        {"frame_size", "num_workers", "max_damaged_share", "gradient_checkpointing"}
        | {"export_dtype", "validation"}
    )

    kind: Literal["video"] = "video"
    base: Path | None = Field(
        None, description="folder of a base: ours, or a CogVideoX-5B-I2V snapshot"
    )
    new_base: VideoModelConfig | None = Field(None, description="sizes of a base made anew")
    train_base: bool = False
    base_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of a frozen base; bfloat16 halves its memory"
    )
    branches: CameraBranchesConfig | None = Field(
        None, description="camera branches to train; null: the base alone"
    )
    branches_from: Path | None = Field(
        None, description="folder of branches to go on from; their sizes must equal `branches`'s"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute each block's forward again in the backward pass, to save memory"
    )
    autoencoder: Path = Field(description="weights folder of the video autoencoder")
    data: list[Path] = Field(description="shard folders to train on", min_length=1)
    data_weights: list[float] | None = Field(None, description="mixing weights of the folders")
    validation_data: Path = Field(description="shard folder to validate on")
    frame_size: tuple[int, int] | None = Field(
        None,
        description="height and width [px] that the shards' frames must have; `plan` needs it where there are"
        " no shards yet",
    )
    latents: Literal["auto", "stored", "encode"] = Field(
        "auto",
        description="stored: read those of `prepare latents`; encode: from frames, in each step; auto:"
        " stored where every folder has them",
    )
    text: str | None = Field(
        None,
        description="set of text embeddings that `prepare text` stored in the shards; null: the zero"
        " embedding",
    )
    text_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of samples with the empty prompt, for guidance; needs text",
    )
    windows: WindowConfig = WindowConfig()
    batch_size: int = Field(8, gt=0, description="clips a step, over all ranks")
    num_workers: int = Field(1, ge=0, description="loading processes a rank")
    max_damaged_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="of the clips, those that may be unreadable before the run stops",
    )
    timesteps: TimestepConfig = TimestepConfig()
    image_dropout: float = Field(
        0.05, ge=0, le=1, description="share of samples without the image, for guidance"
    )
    image_noise: tuple[float, float] | None = Field(
        (-3.0, 0.5),
        description="mean and deviation of the log of the noise added to the image's latent; null: none."
        " CogVideoX adds it to the pixels; here latents may be precomputed",
    )
    camera_dropout: float = Field(
        0.1, ge=0, le=1, description="share of samples without cameras, for guidance"
    )
    validation: VideoValidationConfig = VideoValidationConfig()
    export_dtype: Literal["float32", "float16"] = Field(
        "float32", description="of the exported weights; float16 halves the files"
    )

    @model_validator(mode="after")
    def _something_trains(self) -> VideoConfig:
        if (self.base is None) == (self.new_base is None):
            raise ValueError("give either base (a folder) or new_base (sizes), not both or neither")
        if self.branches is None and not self.train_base:
            raise ValueError("nothing trains: set train_base=true, or give branches")
        if self.train_base and self.base_dtype != "float32":
            raise ValueError(
                "a base that trains is float32; engine.precision=bf16 computes in bfloat16"
            )
        if self.new_base is not None and not self.train_base:
            raise ValueError("new_base has random weights, so it needs train_base=true")
        if self.branches_from is not None and self.branches is None:
            raise ValueError("branches_from needs branches, which says what to train")
        return self

    def create(self, seed: int) -> VideoTask:
        return VideoTask.open(self, seed)


class VideoTask:
    """Implements `train.task.Task` for the video model."""

    indices: list[ShardIndex]
    stored: bool
    validation: VideoValidation

    def __init__(
        self,
        config: VideoConfig,
        seed: int,
        *,
        autoencoder: VideoAutoencoder,
        size: tuple[int, int],
        base: VideoBase | None = None,
    ) -> None:
        """A task that builds its model and computes losses, and reads no shards; `open` gives a whole one.

        size: height and width of the frames. base: instead of the one in `config.base`.
        """
        self.config, self.seed = config, seed
        self.autoencoder, self.size, self.given_base = autoencoder, size, base
        self.text: StoredText | None = None

    @classmethod
    def open(cls, config: VideoConfig, seed: int) -> VideoTask:
        """The task with all that `config` names. Raises UserError where something is missing or unfit."""
        indices = [ShardIndex.load(folder) for folder in config.data]
        size = check_frame_sizes(indices, config.frame_size)
        task = cls(config, seed, autoencoder=load_autoencoder(config.autoencoder), size=size)
        task.indices = indices
        task.stored = task._use_stored()
        task.text = None if config.text is None else open_texts(indices, config.text)
        task.validation = VideoValidation(
            config.validation,
            ShardIndex.load(config.validation_data),
            task.autoencoder,
            num_frames=config.windows.num_frames,
            steered=config.branches is not None,
            text=None if task.text is None else task.text.empty,
        )
        return task

    def build(self) -> VideoModel:
        """The base, new or from its folder, with new branches or those of `branches_from`."""
        config = self.config
        base = self.make_base()
        check_latents(
            self.autoencoder,
            base.latent_channels,
            base.latent_probes,
            f"{config.base or 'the base'}",
        )
        if self.text is not None:
            self._check_text(base, self.text)
        if config.train_base:  # also a base that did not say so learns these latents now
            base = replace(base, latent_probes=latent_probes(self.autoencoder))
        return VideoModel(
            base,
            self._make_branches(base),
            train_base=config.train_base,
            gradient_checkpointing=config.gradient_checkpointing,
        )

    def loader(self, *, rank: int, world_size: int, start: int) -> ClipLoader:
        config = self.config
        return ClipLoader(
            mixture(self.indices, config.data_weights),
            batch_size=config.batch_size,
            seed=self.seed,
            transform=VideoSample(
                config.windows,
                stored=self.stored,
                text=self.text,
                text_dropout=config.text_dropout,
            ),
            num_workers=config.num_workers,
            rank=rank,
            world_size=world_size,
            start=start,
            max_damaged_share=config.max_damaged_share,
        )

    def losses(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """ "loss" is the velocity's mean squared error; "first" and "rest" are its parts by latent frame."""
        config, scheduler = self.config, cast(VideoModel, model).base.scheduler
        latents = self.latents(batch)
        device = latents.device
        draws = SampleDraws(generator, batch, config.batch_size)
        num_levels = len(scheduler.alphas_cumprod)
        levels = config.timesteps.draw(draws.total, num_levels, draws.shared("timesteps"))
        timesteps = levels[draws.places].to(device)
        noise = draws.normal("noise", latents.shape[1:]).to(device)
        image = self._image_latents(latents, draws)
        camera_mask = draws.uniform("camera", ()) >= config.camera_dropout
        with full_precision(device):
            noisy = scheduler.add_noise(latents, noise, timesteps)
            target = scheduler.get_velocity(latents, noise, timesteps)
        steered = config.branches is not None
        predicted = model(
            noisy,
            image,
            timesteps,
            batch.get("text"),
            self.cameras(batch) if steered else None,
            camera_mask.to(device) if steered else None,
        )
        error = (predicted.float() - target).square().mean(dim=(0, 1, 3, 4))
        return {
            "loss": error.mean(),
            "first": error[0].detach(),
            "rest": error[1:].mean().detach(),
        }

    @torch.no_grad()
    def latents(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's latents `[b c p h w]`: stored ones, or encoded from its frames."""
        if "latents" in batch:
            return batch["latents"]
        frames = batch["frames"]
        if isinstance(self.autoencoder, nn.Module):
            self.autoencoder.to(frames.device)
        return self.autoencoder.encode(frames).float()

    def cameras(self, batch: dict[str, Tensor]) -> Cameras:
        """The batch's cameras `[b t]`."""
        return Cameras(batch["world_to_camera"], batch["intrinsics"], *self.size)

    def validate(self, model: nn.Module) -> Validation:
        """See `VideoValidation`."""
        # An engine's wrapping passes on calls and attributes.
        return self.validation.run(cast(VideoModel, model))

    def export(self, model: nn.Module, folder: Path) -> None:
        """The base (diffusers' format) to `folder`/base where it trained, the branches to `folder`/branches."""
        assert isinstance(model, VideoModel)
        dtype = torch.float16 if self.config.export_dtype == "float16" else torch.float32
        if self.config.train_base:
            save_base(model.base, folder / "base", dtype)
        if model.branches is not None:
            save_branches(model.branches, folder / "branches", dtype)

    def _image_latents(self, latents: Tensor, draws: SampleDraws) -> Tensor:
        """The clips' first latent frames with noise, some of them dropped (zeros)."""
        image = latents[:, :, :1]
        if self.config.image_noise is not None:
            mean, deviation = self.config.image_noise
            strength = mean + deviation * draws.normal("image noise's strength", (1, 1, 1, 1))
            noise = draws.normal("image noise", image.shape[1:]) * strength.exp()
            image = image + noise.to(image.device)
        kept = draws.uniform("image", (1, 1, 1, 1)) >= self.config.image_dropout
        return image * kept.to(image.device)

    def make_base(self) -> VideoBase:
        """The base that the config names, or a new one of its sizes."""
        config = self.config
        if self.given_base is not None:
            return self.given_base
        if config.base is not None:
            half = config.base_dtype == "bfloat16"
            return load_base(config.base, torch.bfloat16 if half else torch.float32)
        assert config.new_base is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return create_base(config.new_base)

    def _make_branches(self, base: VideoBase) -> CameraBranches | None:
        wanted, folder = self.config.branches, self.config.branches_from
        if wanted is None:
            return None
        if folder is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                return CameraBranches(wanted, base.transformer)
        branches = load_branches(folder, base.transformer)
        found = branches.config.model_dump()
        for key, value in wanted.model_dump().items():
            if found[key] != value:
                raise UserError(
                    f"{folder}: {key} is {found[key]}, but the recipe's task.branches.{key} is {value};"
                    " make them equal, or drop task.branches_from"
                )
        return branches

    def _check_text(self, base: VideoBase, text: StoredText) -> None:
        settings = base.transformer.config
        expected = (settings.max_text_seq_length, settings.text_embed_dim)
        if tuple(text.empty.shape) != expected:
            raise UserError(
                f"stored text embeddings {text.name!r} are {tuple(text.empty.shape)} (tokens, width), but the"
                f" base takes {expected}; make them with the base's own text encoder and `prepare text"
                f" --tokens {expected[0]}`"
            )

    def _use_stored(self) -> bool:
        config = self.config
        if config.latents == "encode":
            return False
        frames = config.windows.num_frames
        lacking = [
            str(index.folder)
            for index in self.indices
            if not has_stored_latents(index, config.autoencoder, frames)
        ]
        if lacking and config.latents == "stored":
            raise UserError(
                f"{lacking[0]}: has no stored latents; make them with `./launch.sh prepare latents"
                f" {lacking[0]}`, or set task.latents=encode"
            )
        if lacking:
            logger.warning(
                "%s: no stored latents, so every step encodes its frames; `./launch.sh prepare latents`"
                " saves that",
                ", ".join(lacking),
            )
        return not lacking
