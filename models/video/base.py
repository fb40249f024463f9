"""The video model's base: diffusers' CogVideoX image-to-video transformer and scheduler, unmodified.

A base on disk is a folder that plain diffusers reads too: `transformer/`, `scheduler/`, and `video_base.json`
for the one thing of ours, how the image is laid out as conditioning. A CogVideoX-5B-I2V snapshot, which has no
such file, opens the same way.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import Config
from models.autoencoders.interface import SPATIAL_FACTOR, TEMPORAL_FACTOR
from models.torchvision_compat import mend_torchvision
from models.video.attention import install_fast_attention
from models.weight_probes import Probes

if TYPE_CHECKING:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

TRANSFORMER_FOLDER = "transformer"
SCHEDULER_FOLDER = "scheduler"
BASE_FILE = "video_base.json"

ImageConditioning = Literal["first", "repeat"]


class BaseLayout(Config):
    """What a base's folder says beyond diffusers' own files."""

    image_conditioning: ImageConditioning = Field(
        "first",
        description="which latent frames are given the image beside their noise: the first alone, zeros on"
        " the others (CogVideoX's way), or all of them (ours)",
    )


class BaseFile(BaseLayout):
    """All that `BASE_FILE` says."""

    latent_probes: Probes | None = Field(
        None, description="tells the autoencoder on whose latents the base was trained"
    )


class VideoModelConfig(BaseLayout):
    """Sizes of a base. The defaults are CogVideoX-5B-I2V's published configuration."""

    latent_channels: int = Field(16, gt=0)
    heads: int = Field(48, gt=0)
    head_width: int = Field(64, gt=0, description="a multiple of 16, for the rotary embedding")
    layers: int = Field(42, gt=0)
    patch: int = Field(2, gt=0, description="latent pixels per token side")
    time_width: int = Field(512, gt=0, description="of the timestep embedding")
    text_width: int = Field(4096, gt=0)
    text_tokens: int = Field(226, gt=0)
    num_frames: int = Field(49, gt=0, description="8k+1")
    height: int = Field(480, gt=0, description="of the frames, px")
    width: int = Field(720, gt=0, description="of the frames, px")
    learned_positions: bool = Field(
        True,
        description="add the learned position table, as CogVideoX-5B-I2V does beside rotary embeddings;"
        " such a model takes no other frame size",
    )
    snr_shift_scale: float = Field(1.0, gt=0, description="of the noise schedule")

    @property
    def token_width(self) -> int:
        return self.heads * self.head_width

    @model_validator(mode="after")
    def _divides(self) -> VideoModelConfig:
        if self.head_width % 16:
            raise ValueError(f"head_width {self.head_width} is not a multiple of 16")
        if self.num_frames != 1 and self.num_frames % 8 != 1:
            raise ValueError(f"num_frames {self.num_frames} is not 8k+1")
        side = SPATIAL_FACTOR * self.patch
        if self.height % side or self.width % side:
            raise ValueError(
                f"{self.height}x{self.width} does not divide into tokens of {side}x{side} px"
            )
        return self


@dataclass(frozen=True)
class VideoBase:
    """A base as it is used: diffusers' own objects, and the layout of the image conditioning.

    latent_probes: of the autoencoder on whose latents it was trained; None where that is not known.
    """

    transformer: CogVideoXTransformer3DModel
    scheduler: CogVideoXDDIMScheduler
    layout: BaseLayout
    latent_probes: Probes | None = None

    @property
    def latent_channels(self) -> int:
        return self.transformer.config.out_channels

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.patch_embed.text_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.transformer.patch_embed.text_proj.weight.device

    def no_text(self, batch: int) -> Float[Tensor, "b n e"]:
        """The zero embedding, which stands for the empty prompt where no text encoder is used."""
        config = self.transformer.config
        size = (batch, config.max_text_seq_length, config.text_embed_dim)
        return torch.zeros(size, dtype=self.dtype, device=self.device)

    def transformer_input(
        self, noisy: Float[Tensor, "b c p h w"], image_latents: Float[Tensor, "b c 1 h w"]
    ) -> Float[Tensor, "b p 2*c h w"]:
        """The noisy latents with the image's latents beside them, in diffusers' order of axes."""
        image = image_latents.new_zeros(noisy.shape)
        if self.layout.image_conditioning == "repeat":
            image += image_latents
        else:
            image[:, :, :1] = image_latents
        return torch.cat([noisy, image], dim=1).transpose(1, 2)


def create_base(config: VideoModelConfig) -> VideoBase:
    """A new base with random weights from torch's global generator.

    Weights start as DiT's do (arXiv 2212.09748, sec. 3.2): modulations and output at zero, so that every block
    starts as the identity.
    """
    mend_torchvision()
    from diffusers import CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        in_channels=2 * config.latent_channels,
        out_channels=config.latent_channels,
        time_embed_dim=config.time_width,
        text_embed_dim=config.text_width,
        num_layers=config.layers,
        sample_width=config.width // SPATIAL_FACTOR,
        sample_height=config.height // SPATIAL_FACTOR,
        sample_frames=config.num_frames,
        patch_size=config.patch,
        temporal_compression_ratio=TEMPORAL_FACTOR,
        max_text_seq_length=config.text_tokens,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=config.learned_positions,
    )
    _initialise(transformer)
    install_fast_attention(transformer)
    layout = BaseLayout(image_conditioning=config.image_conditioning)
    return VideoBase(transformer, create_scheduler(config.snr_shift_scale), layout)


def create_scheduler(snr_shift_scale: float = 1.0) -> CogVideoXDDIMScheduler:
    """CogVideoX-5B's noise schedule: v-prediction, zero terminal signal, trailing timesteps.

    Every setting is given, since diffusers' defaults differ. Another sampler over the same schedule is
    `CogVideoXDPMScheduler.from_config(scheduler.config)`.
    """
    mend_torchvision()
    from diffusers import CogVideoXDDIMScheduler

    return CogVideoXDDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=snr_shift_scale,
    )


def save_base(base: VideoBase, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the base to `folder`; `dtype` is that of the file. Attached camera branches are left out."""
    mend_torchvision()
    from diffusers import CogVideoXTransformer3DModel

    state = {
        name.replace(".base_layer.", "."): value.detach().to("cpu", dtype)
        for name, value in base.transformer.state_dict().items()
        if ".lora_" not in name
    }
    settings = dict(base.transformer.config)
    settings.pop("_name_or_path", None)  # where this base was loaded from is nobody's business
    with torch.device("meta"):
        stored = CogVideoXTransformer3DModel.from_config(settings)
    stored.load_state_dict(state, assign=True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in ((stored, TRANSFORMER_FOLDER), (base.scheduler, SCHEDULER_FOLDER)):
        unfinished = folder / f"{name}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        part.save_pretrained(unfinished)
        _share_as(unfinished)
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(unfinished, folder / name)
    described = folder / f"{BASE_FILE}.tmp"
    content = BaseFile(
        image_conditioning=base.layout.image_conditioning, latent_probes=base.latent_probes
    )
    described.write_text(content.model_dump_json(indent=2, exclude_none=True) + "\n")
    os.replace(described, folder / BASE_FILE)


def load_base(folder: str | Path, dtype: torch.dtype = torch.float32) -> VideoBase:
    """The base in a folder of ours or in a CogVideoX-5B-I2V snapshot, in eval mode, in `dtype`.

    Raises UserError where it is missing, damaged, or not an image-to-video CogVideoX of the first generation.
    """
    mend_torchvision()
    folder = Path(folder)
    return _with_scheduler(_load_transformer(folder / TRANSFORMER_FOLDER, dtype), folder)


def outline_base(folder: str | Path, dtype: torch.dtype = torch.float32) -> VideoBase:
    """The base as its settings describe it, on the meta device: the files of its weights are not read.

    Raises UserError as `load_base` does.
    """
    mend_torchvision()
    from diffusers import CogVideoXTransformer3DModel

    folder = Path(folder)
    settings = _read_settings(folder / TRANSFORMER_FOLDER)
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel.from_config(settings).eval()
    # diffusers' own `to` warns of layers that must stay in float32, and names none.
    nn.Module.to(transformer, dtype)
    install_fast_attention(transformer)
    return _with_scheduler(transformer, folder)


def _with_scheduler(transformer: CogVideoXTransformer3DModel, folder: Path) -> VideoBase:
    from diffusers import CogVideoXDDIMScheduler

    try:
        scheduler = CogVideoXDDIMScheduler.from_pretrained(folder / SCHEDULER_FOLDER)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / SCHEDULER_FOLDER} is not a loadable scheduler: {_first_line(error)}"
        ) from error
    if scheduler.config.prediction_type != "v_prediction":
        raise UserError(
            f"{folder / SCHEDULER_FOLDER} predicts {scheduler.config.prediction_type!r}; expected"
            " 'v_prediction', as all CogVideoX models do"
        )
    content = _read_base_file(folder / BASE_FILE)
    layout = BaseLayout(image_conditioning=content.image_conditioning)
    return VideoBase(transformer, scheduler, layout, content.latent_probes)


def _read_settings(folder: Path) -> dict[str, Any]:
    """A transformer's configuration, which must be that of a kind that is supported."""
    from diffusers import CogVideoXTransformer3DModel

    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder / 'config.json'} is missing; expected the folder of a video base, with"
            f" {TRANSFORMER_FOLDER}/ and {SCHEDULER_FOLDER}/ in it"
        )
    try:
        settings = CogVideoXTransformer3DModel.load_config(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is not a loadable CogVideoX transformer: {_first_line(error)}"
        ) from error
    _check_kind(settings, folder)
    return settings


def _load_transformer(folder: Path, dtype: torch.dtype) -> CogVideoXTransformer3DModel:
    from diffusers import CogVideoXTransformer3DModel

    _read_settings(folder)
    try:
        transformer, report = CogVideoXTransformer3DModel.from_pretrained(
            folder, torch_dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder} is not a loadable CogVideoX transformer: {_first_line(error)}"
        ) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in report[problem]):
            raise UserError(
                f"{folder}: the weights do not fit config.json: {len(names)}"
                f" {problem.replace('_', ' ')}, the first is {names[0]}; restore or export them again"
            )
    for name, value in transformer.named_parameters():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{folder}: NaN or infinite values in {name!r}; restore or export it again"
            )
    install_fast_attention(transformer)
    return transformer.eval()


def _check_kind(settings: dict[str, Any], folder: Path) -> None:
    found = settings.get("_class_name")
    if found != "CogVideoXTransformer3DModel":
        raise UserError(f"{folder} holds a {found!r}; expected 'CogVideoXTransformer3DModel'")
    channels_in, channels_out = settings.get("in_channels", 16), settings.get("out_channels", 16)
    if channels_in != 2 * channels_out:
        raise UserError(
            f"{folder} takes {channels_in} channels and gives {channels_out}: that is not an"
            " image-to-video model, which takes twice what it gives; use one like CogVideoX-5B-I2V"
        )
    if settings.get("patch_size_t") is not None or settings.get("ofs_embed_dim") is not None:
        raise UserError(
            f"{folder} is a CogVideoX 1.5 model, which is not supported; use one like CogVideoX-5B-I2V"
        )
    if not settings.get("use_rotary_positional_embeddings", False):
        raise UserError(
            f"{folder} has no rotary embeddings, as CogVideoX-2B; use one like CogVideoX-5B-I2V"
        )


def _read_base_file(path: Path) -> BaseFile:
    if not path.is_file():
        return BaseFile()
    try:
        return BaseFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({_first_line(error)}); export the base again"
        ) from error


def _initialise(transformer: CogVideoXTransformer3DModel) -> None:
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(transformer.patch_embed.proj.weight.flatten(1))
    zeroed = [transformer.norm_out.linear, transformer.proj_out]
    for block in transformer.transformer_blocks:
        zeroed += [block.norm1.linear, block.norm2.linear]
    for module in zeroed:
        nn.init.zeros_(module.weight)


def _share_as(folder: Path) -> None:
    """Gives the weights the permissions of their config: diffusers leaves them to their owner alone."""
    configs = [path for path in folder.iterdir() if path.suffix == ".json"]
    for path in folder.iterdir():
        path.chmod(configs[0].stat().st_mode)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
