"""The reconstruction task: trains LaLRM to turn a clip's latents and cameras into Gaussians.

A batch holds clips cut by the view sampler: input frames, from which the frozen autoencoder makes latents
(or latents that are stored in the shards), and supervision views ("seen" ones among the inputs, "unseen" ones
outside their span) that the predicted Gaussians are rendered to. Clips that a video model made (`prepare
generated`) go in as its own latents, and their decoded frames supervise, so that LaLRM learns what generated
latents are like. Wonderland, sec. 3.3 and 4.1; weights that the paper leaves out are ours.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras, stack_cameras
from data.clips import Clip
from data.loader import ClipLoader, mixture
from data.shard_index import ShardIndex
from data.shards import open_clip
from data.views import ViewSampler, ViewSamplerConfig, load_selection
from models.autoencoders.files import load_autoencoder
from models.autoencoders.identity import check_latents, latent_probes
from models.autoencoders.interface import VideoAutoencoder, latent_shape
from models.gaussians import Gaussians
from models.lalrm import LaLRM, LaLRMConfig
from models.perceptual import PerceptualLoss
from models.precision import full_precision
from models.rendering.render import render
from train import losses
from train.task import Validation
from train.tasks.frame_size import check_frame_sizes
from train.tasks.reconstruction_sample import (
    DEPTH_LIMIT,
    ReconstructionSample,
    StoredInputs,
    batch_cameras,
)
from train.tasks.stored_latents import has_stored_latents, made_by_video_model

logger = logging.getLogger(__name__)

VALIDATION_UNSEEN_VIEWS = 8


class LossConfig(Config):
    """Weights of the loss's parts. The paper publishes none."""

    may_change: ClassVar = frozenset({"perceptual_at_once"})

    mse: float = Field(1.0, ge=0)
    perceptual: float = Field(0.0, ge=0)
    perceptual_weights: Path | None = Field(
        None, description="VGG-16 weights file; without it torchvision downloads them"
    )
    perceptual_at_once: int | None = Field(
        None,
        gt=0,
        description="frames that go through its network together, to save memory: what they keep there is"
        " computed again in the backward pass; null: all of them, and kept",
    )
    depth: float = Field(0.0, ge=0, description="L1 of the log ray distance, where depth is known")
    opacity: float = Field(0.0, ge=0, description="mean opacity")
    scale: float = Field(0.0, ge=0, description="scales above `scale_limit`")
    scale_limit: float = Field(0.3, gt=0, description="as a share of the Gaussian's distance")


class ReconstructionConfig(Config):
    """Everything that the reconstruction task needs beside the loop's own settings."""

    may_change: ClassVar = frozenset(
        {"frame_size", "num_workers", "max_damaged_share", "export_dtype"}
    )

    kind: Literal["reconstruction"] = "reconstruction"
    model: LaLRMConfig = LaLRMConfig()
    init_from: Path | None = Field(
        None, description="weights folder of an earlier stage; its sizes must equal `model`'s"
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
    num_validation_clips: int = Field(32, gt=0)
    batch_size: int = Field(8, gt=0, description="clips a step, over all ranks")
    num_workers: int = Field(1, ge=0, description="loading processes a rank")
    max_damaged_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="of the clips, those that may be unreadable before the run stops",
    )
    views: ViewSamplerConfig = ViewSamplerConfig()
    latents: Literal["auto", "stored", "encode"] = Field(
        "auto",
        description="auto: those stored in the folders that have them (generated clips, and those of"
        " `prepare latents`), else from frames, in each step; stored: every folder must have them; encode:"
        " always from frames",
    )
    mirror_probability: float = Field(
        0.0, ge=0, le=1, description="share of clips flipped left to right, cameras with them"
    )
    scale_jitter: float = Field(
        0.0, ge=0, description="standard deviation of a random log factor on the scene scale"
    )
    loss: LossConfig = LossConfig()
    background: float = Field(0.5, ge=0, le=1, description="grey behind the Gaussians")
    export_dtype: Literal["float32", "float16"] = Field(
        "float32", description="of the exported weights; float16 halves the file"
    )
    color_skip_clips: int = Field(
        256, gt=0, description="clips for the closed-form start of the colour skip"
    )

    def create(self, seed: int) -> ReconstructionTask:
        return ReconstructionTask.open(self, seed)


class ReconstructionTask:
    """Implements `train.task.Task` for LaLRM."""

    stored: StoredInputs | None
    validation_clips: list[tuple[Clip, Clip]]

    def __init__(
        self,
        config: ReconstructionConfig,
        seed: int,
        *,
        autoencoder: VideoAutoencoder,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """A task that builds its model and computes losses, and reads no shards; `open` gives a whole one."""
        self.config, self.seed = config, seed
        self.autoencoder, self.perceptual = autoencoder, perceptual
        self.indices: list[ShardIndex] = []

    @classmethod
    def open(cls, config: ReconstructionConfig, seed: int) -> ReconstructionTask:
        """The task with all that `config` names. Raises UserError where something is missing or unfit."""
        weights, perceptual = config.loss, None
        if weights.perceptual:
            at_once = weights.perceptual_at_once
            perceptual = PerceptualLoss(weights.perceptual_weights, at_once=at_once)
        autoencoder = load_autoencoder(config.autoencoder)
        task = cls(config, seed, autoencoder=autoencoder, perceptual=perceptual)
        task.indices = [ShardIndex.load(folder) for folder in config.data]
        check_frame_sizes(task.indices, config.frame_size)
        task.stored = task._stored_inputs()
        task.validation_clips = task._load_validation()
        return task

    def build(self) -> LaLRM:
        """LaLRM from `init_from`, or new with its colour skip fitted in closed form (where there are shards)."""
        config = self.config.model.model_copy(
            update={"latent_probes": latent_probes(self.autoencoder)}
        )
        if self.config.init_from is not None:
            model = LaLRM.from_pretrained(self.config.init_from)
            _check_same_sizes(model.config, self.config.model, self.config.init_from)
            check_latents(
                self.autoencoder,
                model.config.latent_channels,
                model.config.latent_probes,
                f"{self.config.init_from}",
            )
            model.config = config
            return model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LaLRM(config)
        if model.color_skip is not None and self.indices:
            latents, frames = self._color_skip_data()
            model.color_skip.fit(latents, frames)
        return model

    def loader(self, *, rank: int, world_size: int, start: int) -> ClipLoader:
        config = self.config
        return ClipLoader(
            mixture(self.indices, config.data_weights),
            batch_size=config.batch_size,
            seed=self.seed,
            transform=ReconstructionSample(
                config.views,
                mirror_probability=config.mirror_probability,
                scale_jitter=config.scale_jitter,
                stored=self.stored,
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
        """Named parts; "loss" is their weighted sum, "psnr" is for reading only."""
        weights = self.config.loss
        inputs, targets = batch_cameras(batch, "input"), batch_cameras(batch, "target")
        gaussians = model(self.latents(batch), inputs)
        with full_precision(gaussians.means.device):
            drawn = self.render(gaussians, targets).frames
            mse = F.mse_loss(drawn, batch["target_frames"])
            parts = {"mse": mse}
            if self.perceptual is not None:
                self.perceptual.to(drawn.device)
                parts["perceptual"] = self.perceptual(drawn, batch["target_frames"])
            if weights.depth:
                truth = losses.half_resolution_distance(batch["input_depth"], inputs)
                parts["depth"] = losses.log_distance_loss(
                    losses.ray_distance(gaussians, inputs), truth.flatten(2)
                )
            if weights.opacity:
                parts["opacity"] = losses.opacity_regulariser(gaussians)
            if weights.scale:
                parts["scale"] = losses.scale_regulariser(gaussians, weights.scale_limit)
        total = sum(getattr(weights, name) * value for name, value in parts.items())
        with torch.no_grad():
            psnr = -10 * torch.log10(mse)
        return {"loss": total, **parts, "psnr": psnr}

    @torch.no_grad()
    def latents(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's latents `[b c p h w]`: stored ones where there are any, else encoded from its frames."""
        frames = batch["input_frames"]
        if "latents" not in batch:
            return self._encode(frames)
        if "has_latents" not in batch:
            return batch["latents"]
        latents, lacking = batch["latents"].clone(), ~batch["has_latents"]
        if lacking.any():
            latents[lacking] = self._encode(frames[lacking]).to(latents.dtype)
        return latents

    def _encode(self, frames: Tensor) -> Tensor:
        if isinstance(self.autoencoder, nn.Module):
            self.autoencoder.to(frames.device)
        return self.autoencoder.encode(frames)

    def render(self, gaussians: Gaussians, cameras: Cameras) -> Any:
        """Renders over the task's grey background."""
        background = gaussians.means.new_full((3,), self.config.background)
        return render(gaussians, cameras, background=background)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Validation:
        """PSNR on seen and unseen views and depth error of fixed clips; a picture of the first four."""
        scores: dict[str, list[float]] = {"psnr_seen": [], "psnr_unseen": [], "log_depth_error": []}
        images = {}
        device = next(model.parameters()).device
        for number, (inputs, views) in enumerate(self.validation_clips):
            cameras = stack_cameras([inputs.cameras]).to(device)
            gaussians = model(self._encode(inputs.frames[None].to(device)), cameras)
            targets = stack_cameras([views.cameras]).to(device)
            drawn = self.render(gaussians, targets).frames[0].clamp(0, 1).cpu()
            error = (drawn - views.frames).square().mean(dim=(1, 2, 3))
            psnr = -10 * torch.log10(error.clamp_min(1e-10))
            scores["psnr_seen"].append(float(psnr[: inputs.num_frames].mean()))
            if views.num_frames > inputs.num_frames:
                scores["psnr_unseen"].append(float(psnr[inputs.num_frames :].mean()))
            if inputs.depth is not None:
                depth = inputs.depth[None].clamp(max=DEPTH_LIMIT).to(device)
                truth = losses.half_resolution_distance(depth, cameras)
                error = losses.log_distance_loss(
                    losses.ray_distance(gaussians, cameras), truth.flatten(2)
                )
                scores["log_depth_error"].append(float(error))
            if number < 4:
                images[f"clip_{number}"] = _picture(views.frames, drawn, inputs.num_frames)
        means = {name: sum(values) / len(values) for name, values in scores.items() if values}
        return Validation(scalars=means, images=images)

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, LaLRM)
        half = self.config.export_dtype == "float16"
        model.save_pretrained(folder, torch.float16 if half else torch.float32)

    def _stored_inputs(self) -> StoredInputs | None:
        """The folders whose stored latents go in; None where frames of all clips are encoded."""
        config, folders = self.config, {}
        if config.latents == "encode":
            return None
        for index in self.indices:
            if has_stored_latents(index, config.autoencoder, config.views.num_input):
                folders[index.folder] = made_by_video_model(index)
                logger.info("%s: its stored latents are used", index.folder)
            elif config.latents == "stored":
                raise UserError(
                    f"{index.folder}: has no stored latents; make them with `./launch.sh prepare latents"
                    f" {index.folder}`, or set task.latents=auto"
                )
        size = (self.indices[0].height, self.indices[0].width)
        shape = latent_shape(config.views.num_input, *size, self.autoencoder.latent_channels)
        complete = len(folders) == len({index.folder for index in self.indices})
        return StoredInputs(folders, shape, complete) if folders else None

    def _load_validation(self) -> list[tuple[Clip, Clip]]:
        """Input frames, and every view to be judged: the input frames, then the unseen ones."""
        index = ShardIndex.load(self.config.validation_data)
        config = self.config.views
        sampler = ViewSampler(
            config.model_copy(
                update={"num_seen": config.num_input, "num_unseen": VALIDATION_UNSEEN_VIEWS}
            )
        )
        pairs = []
        for number in range(min(self.config.num_validation_clips, len(index))):
            handle = open_clip(index, number)
            chosen = sampler.evaluation(handle.num_frames, handle.num_path_frames)
            pairs.append(load_selection(handle, chosen))
        return pairs

    def _color_skip_data(self) -> tuple[Tensor, Tensor]:
        index = self.indices[0]
        sampler = ViewSampler(self.config.views)
        frames = []
        for number in range(min(self.config.color_skip_clips, len(index))):
            handle = open_clip(index, number)
            chosen = sampler.evaluation(handle.num_frames, handle.num_path_frames)
            frames.append(load_selection(handle, chosen, depth=False)[0].frames)
        stacked = torch.stack(frames)
        with torch.no_grad():
            return torch.cat([self.autoencoder.encode(x) for x in stacked.split(16)]), stacked


def _picture(truth: Tensor, drawn: Tensor, num_input: int) -> Tensor:
    """Truth above render: three input views, then up to three unseen ones."""
    unseen = list(range(num_input, len(truth)))
    views = [0, num_input // 2, num_input - 1, *unseen[:: max(1, len(unseen) // 3)][:3]]
    rows = [torch.cat(list(images[views]), dim=-1) for images in (truth, drawn)]
    return torch.cat(rows, dim=-2)


def _check_same_sizes(found: LaLRMConfig, wanted: LaLRMConfig, folder: Path) -> None:
    for key in ("latent_channels", "width", "depth", "heads", "mlp_ratio", "patch",
                "temporal_alignment", "color_skip"):  # fmt: skip
        if getattr(found, key) != getattr(wanted, key):
            raise UserError(
                f"{folder}: {key} is {getattr(found, key)}, but the recipe's task.model.{key} is"
                f" {getattr(wanted, key)}; make them equal, or drop task.init_from"
            )
