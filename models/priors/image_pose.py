"""An image- and pose-conditioned diffusion model as a prior: does this view go with the input, seen from there?

Zero-1-to-3 (arXiv 2303.11328) in the form that its diffusers pipelines have: a UNet that gets the input's latents
beside the noisy ones, and reads one token, made of the input's CLIP embedding and the camera's turn around what both
look at. It was trained on objects on plain ground; a scene is no such thing, and how far it carries there is for the
report to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from data.cameras import Cameras
from models.priors.image import (
    LOAD_ERRORS,
    PREDICTIONS,
    decode_frames,
    first_line,
    latent_frame_size,
    load_whole,
)
from models.priors.interface import ViewKind, check_finite, noise_of_velocity
from models.torchvision_compat import mend_torchvision

POSE_GUIDANCE = 5.0
"""DreamGaussian's, for images."""
PARTS = ("image_encoder", "cc_projection", "vae", "unet", "scheduler")
USUAL_DISTANCE = 1.85
"""Its training cameras stand 1.5 to 2.2 from the object; what our input camera looks at counts as so far away."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class PosedImagePrior:
    """A denoiser of single views, told of the input image and of where the camera stands."""

    kind: ViewKind = "single"
    num_views: int | None = None

    def __init__(
        self,
        name: str,
        unet: Any,
        vae: Any,
        scheduler: Any,
        projection: nn.Linear,
        embedding: Float[Tensor, " e"],
        image: Float[Tensor, "3 h w"],
        first: Cameras,
        depth: float,
        guidance: float,
        frame_size: tuple[int, int],
    ) -> None:
        """embedding: CLIP's, of the image. first: the image's camera; depth: of what it looks at [scene units].

        Raises UserError where the parts don't fit.
        """
        check_posed_parts(name, unet, vae, scheduler, projection, len(embedding))
        self.name, self.unet, self.vae, self.projection = name, unet, vae, projection
        self.embedding, self.guidance, self.frame_size = embedding, guidance, frame_size
        self.first, self.depth = first, depth
        self.prediction = scheduler.config.prediction_type
        self.signal = scheduler.alphas_cumprod.double().cpu()
        for network in (unet, vae, projection):
            network.eval().requires_grad_(False)
        resized = F.interpolate(image[None], frame_size, mode="bilinear", antialias=True)
        with torch.no_grad():  # beside the noisy latents they are not scaled
            self.image_latents = vae.encode((2 * resized - 1).to(vae.dtype)).latent_dist.mode()

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
        """Classifier-free guidance by image and pose together; without them stand zeros."""
        count, dtype = len(noisy), self.unet.dtype
        turns = relative_turns(self.first, cameras, self.depth).to(self.embedding)
        told = self.projection(torch.cat([self.embedding.expand(count, -1), turns], dim=1))[:, None]
        beside = self.image_latents.to(noisy).expand(count, -1, -1, -1)
        both = torch.cat(
            [
                torch.cat([noisy, noisy]),
                torch.cat([torch.zeros_like(beside), beside]),
            ],
            dim=1,
        )
        found = self.unet(
            both.to(dtype),
            torch.full((2 * count,), level, device=noisy.device),
            encoder_hidden_states=torch.cat([torch.zeros_like(told), told]).to(dtype),
        ).sample.to(noisy.dtype)
        if self.prediction == "v_prediction":
            found = noise_of_velocity(found, torch.cat([noisy, noisy]), float(self.signal[level]))
        without, guided = found.chunk(2)
        return check_finite(without + self.guidance * (guided - without), self.name)


def relative_turns(first: Cameras, cameras: Cameras, depth: float) -> Float[Tensor, "v 4"]:
    """How cameras have gone around the point `depth` ahead of the first: change of polar angle [rad, down is more],
    sine and cosine of the change of azimuth (to the right is more), and of the distance, where `depth` counts as
    `USUAL_DISTANCE`. Zero-1-to-3, sec. 3.2.
    """
    to_first = first.world_to_camera[0].double()
    centres = cameras.positions.double() @ to_first[:3, :3].T + to_first[:3, 3]
    away = centres - centres.new_tensor([0.0, 0.0, depth])
    distance = away.norm(dim=1).clamp_min(1e-9)
    polar = torch.asin((away[:, 1] / distance).clamp(-1, 1))  # y is down
    azimuth = torch.atan2(away[:, 0], -away[:, 2])
    farther = (distance / depth - 1) * USUAL_DISTANCE
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), farther], dim=1).float()


def check_posed_parts(
    name: str, unet: Any, vae: Any, scheduler: Any, projection: nn.Linear, embedding_width: int
) -> None:
    """Raises UserError where a pipeline's parts are not those of a Zero-1-to-3."""
    taken, latent = unet.config.in_channels, vae.config.latent_channels
    if taken != 2 * latent:
        raise UserError(
            f"{name}: its UNet takes {taken} channels; expected {2 * latent}, the noisy latents and the image's"
        )
    if projection.in_features != embedding_width + 4:
        raise UserError(
            f"{name}: its cc_projection takes {projection.in_features} values; expected {embedding_width + 4}, the"
            " image's embedding and 4 for the pose"
        )
    if projection.out_features != unet.config.cross_attention_dim:
        raise UserError(
            f"{name}: its cc_projection gives {projection.out_features} values, but the UNet reads"
            f" {unet.config.cross_attention_dim}; the parts belong to different models"
        )
    if scheduler.config.prediction_type not in PREDICTIONS:
        raise UserError(
            f"{name}: it predicts {scheduler.config.prediction_type!r}; expected one of"
            f" {', '.join(PREDICTIONS)}"
        )


def load_posed_image_prior(
    folder: Path,
    image: Float[Tensor, "3 h w"],
    first: Cameras,
    depth: float,
    *,
    guidance: float = POSE_GUIDANCE,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PosedImagePrior:
    """The prior in a pipeline's folder, of an image with its camera; see `PosedImagePrior`. dtype: of the UNet.

    Raises UserError where parts are missing, do not load, or do not fit.
    """
    mend_torchvision()
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPVisionModelWithProjection

    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"{folder}: has no {missing[0]}/; expected the folder of a Zero-1-to-3 pipeline of diffusers, with"
            f" {', '.join(f'{part}/' for part in PARTS)} in it"
        )
    try:
        encoder = load_whole(CLIPVisionModelWithProjection, folder / "image_encoder").eval()
        projection = _load_projection(folder / "cc_projection")
        vae = load_whole(AutoencoderKL, folder / "vae").to(device)
        unet = load_whole(UNet2DConditionModel, folder / "unet", torch_dtype=dtype).to(device)
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    except LOAD_ERRORS as error:
        raise UserError(f"{folder}: not a pipeline that loads ({first_line(error)})") from error
    size = (encoder.config.image_size,) * 2
    seen = F.interpolate(image[None].cpu(), size, mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (seen.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        embedding = encoder((seen - mean) / std).image_embeds[0].to(device)
    return PosedImagePrior(
        str(folder),
        unet,
        vae,
        scheduler,
        projection.to(device),
        embedding,
        image.to(device),
        first,
        depth,
        guidance,
        latent_frame_size(unet, vae, *image.shape[1:]),
    )


def is_posed_pipeline(name: str) -> bool:
    """Whether a folder holds a pipeline that is told by image and pose, and not by text."""
    return (Path(name) / "cc_projection").is_dir()


def _load_projection(folder: Path) -> nn.Linear:
    """The one linear layer, from `projection.weight` and `projection.bias`."""
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    weight, bias = weights["projection.weight"], weights["projection.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
