"""A text-conditioned latent diffusion model of diffusers as a prior: does this view look like what the prompt says?

Any pipeline with a `UNet2DConditionModel`, an `AutoencoderKL` and one CLIP text encoder will do, which is Stable
Diffusion 1 and 2 and what was tuned from them. It looks at each view by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from models.priors.interface import ViewKind, check_finite, noise_of_velocity
from models.torchvision_compat import mend_torchvision

TEXT_GUIDANCE = 100.0
"""DreamFusion's and DreamGaussian's, for text."""
PREDICTIONS = ("epsilon", "v_prediction")
LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)
"""What the libraries raise where a part is missing, damaged or of another kind."""
PARTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")


class ImagePrior:
    """A denoiser of single views, guided by a prompt."""

    kind: ViewKind = "single"
    num_views: int | None = None

    def __init__(
        self,
        name: str,
        unet: Any,
        vae: Any,
        scheduler: Any,
        text: Float[Tensor, "2 n e"],
        guidance: float,
        frame_size: tuple[int, int],
    ) -> None:
        """text: embeddings of the negative prompt and of the prompt. Raises UserError where the parts don't fit."""
        check_parts(name, unet, vae, scheduler, text.shape[-1])
        self.name, self.unet, self.vae, self.text = name, unet, vae, text
        self.guidance, self.frame_size = guidance, frame_size
        self.prediction = scheduler.config.prediction_type
        self.signal = scheduler.alphas_cumprod.double().cpu()
        for network in (unet, vae):
            network.eval().requires_grad_(False)

    def encode(self, frames: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v c h_ w_"]:
        """The mean of the autoencoder's distribution, scaled as the model was trained."""
        latents = self.vae.encode((2 * frames - 1).to(self.vae.dtype)).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).to(frames.dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "v c h_ w_"]) -> Float[Tensor, "v 3 h w"]:
        return decode_frames(self.vae, latents)

    @torch.no_grad()
    def predict_noise(
        self, noisy: Float[Tensor, "v c h_ w_"], level: int, cameras: Cameras
    ) -> Float[Tensor, "v c h_ w_"]:
        """Classifier-free guidance by the prompt; the cameras are not looked at."""
        count, dtype = len(noisy), self.unet.dtype
        found = self.unet(
            torch.cat([noisy, noisy]).to(dtype),
            torch.full((2 * count,), level, device=noisy.device),
            encoder_hidden_states=self.text.to(dtype).repeat_interleave(count, dim=0),
        ).sample.to(noisy.dtype)
        if self.prediction == "v_prediction":
            found = noise_of_velocity(found, torch.cat([noisy, noisy]), float(self.signal[level]))
        without, told = found.chunk(2)
        return check_finite(without + self.guidance * (told - without), self.name)


def decode_frames(vae: Any, latents: Float[Tensor, "v c h_ w_"]) -> Float[Tensor, "v 3 h w"]:
    """Frames in [0, 1] of latents in the scale that the UNet knows, in the latents' dtype."""
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    return (vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).to(latents.dtype)


def check_parts(name: str, unet: Any, vae: Any, scheduler: Any, text_width: int) -> None:
    """Raises UserError where a pipeline's parts are not those of a text-conditioned latent diffusion model."""
    taken, given = unet.config.in_channels, vae.config.latent_channels
    if taken != given:
        raise UserError(
            f"{name}: its UNet takes {taken} channels, but the latents have {given}; expected a model that is told by"
            " text alone, without an image beside the latents"
        )
    if unet.config.cross_attention_dim != text_width:
        raise UserError(
            f"{name}: its UNet reads text of width {unet.config.cross_attention_dim}, but the text encoder gives"
            f" {text_width}; the parts belong to different models"
        )
    if unet.config.addition_embed_type is not None or unet.config.class_embed_type is not None:
        raise UserError(
            f"{name}: its UNet wants more than text (as SDXL's does); expected one like Stable Diffusion 1 or 2"
        )
    if scheduler.config.prediction_type not in PREDICTIONS:
        raise UserError(
            f"{name}: it predicts {scheduler.config.prediction_type!r}; expected one of"
            f" {', '.join(PREDICTIONS)}"
        )


def latent_frame_size(unet: Any, vae: Any, height: int, width: int) -> tuple[int, int]:
    """Pictures of about the area that the model was trained at, of the given proportions, that divide evenly."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    # The UNet halves its sides once a level but the last.
    unit = factor * 2 ** (len(unet.config.block_out_channels) - 1)
    side = unet.config.sample_size * factor
    share = (height / width) ** 0.5
    return max(unit, round(side * share / unit) * unit), max(
        unit, round(side / share / unit) * unit
    )


def first_line(error: Exception) -> str:
    """What a library's error says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load_whole(kind: Any, source: str | Path, **options: Any) -> Any:
    """A network of diffusers or transformers with all its weights, from safetensors alone.

    options: as for its `from_pretrained`. Raises one of `LOAD_ERRORS`, ValueError where weights are missing: the
    libraries would make them up.
    """
    network, report = kind.from_pretrained(
        source, use_safetensors=True, output_loading_info=True, **options
    )
    if missing := sorted(report["missing_keys"]):
        part = options.get("subfolder") or Path(source).name
        raise ValueError(f"{part} lacks {len(missing)} weights, the first is {missing[0]}")
    return network


def load_image_prior(
    name: str,
    prompt: str,
    *,
    negative_prompt: str = "",
    guidance: float = TEXT_GUIDANCE,
    proportions: tuple[int, int] = (1, 1),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImagePrior:
    """The prior in a pipeline's folder, or of a name on the hub.

    proportions: height and width of the pictures, in any unit. dtype: of the UNet. Raises UserError where parts are
    missing, do not load, or are not what `ImagePrior` takes.
    """
    mend_torchvision()
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    if (folder := Path(name)).exists():
        missing = [part for part in PARTS if not (folder / part).is_dir()]
        if missing:
            raise UserError(
                f"{folder}: has no {missing[0]}/; expected the folder of a Stable Diffusion pipeline of diffusers, with"
                f" {', '.join(f'{part}/' for part in PARTS)} in it"
            )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(name, subfolder="tokenizer")
        encoder = load_whole(CLIPTextModel, name, subfolder="text_encoder").eval().to(device)
        vae = load_whole(AutoencoderKL, name, subfolder="vae").to(device)
        unet = load_whole(UNet2DConditionModel, name, subfolder="unet", torch_dtype=dtype)
        scheduler = DDIMScheduler.from_pretrained(name, subfolder="scheduler")
    except LOAD_ERRORS as error:
        raise UserError(
            f"--prior {name}: not a pipeline that loads ({first_line(error)}); expected video, none, a folder, or"
            " the name of a Stable Diffusion pipeline on the hub"
        ) from error
    words = tokenizer(
        [negative_prompt, prompt],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        text = encoder(words.input_ids.to(device))[0].float()
    size = latent_frame_size(unet, vae, *proportions)
    return ImagePrior(name, unet.to(device), vae, scheduler, text, guidance, size)
