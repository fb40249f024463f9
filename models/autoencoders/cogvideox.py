"""diffusers' CogVideoX autoencoder behind our interface: the real one by `from_pretrained`, or a small one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import Config
from models.autoencoders.interface import latent_shape
from models.torchvision_compat import mend_torchvision

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX


class CogVideoXAutoencoderConfig(Config):
    """Sizes; the defaults are those of the small autoencoder that trains on a CPU, not of the real one."""

    latent_channels: int = Field(16, gt=0)
    block_out_channels: tuple[int, int, int, int] = (16, 32, 64, 64)
    layers_per_block: int = Field(1, gt=0)
    norm_groups: int = Field(8, gt=0)


class CogVideoXAutoencoder(nn.Module):
    """Implements `VideoAutoencoder` over `AutoencoderKLCogVideoX`, which works in [-1, 1] and `[b c t h w]`."""

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        self.vae = vae

    @classmethod
    def from_config(cls, config: CogVideoXAutoencoderConfig) -> CogVideoXAutoencoder:
        """A new, randomly initialised autoencoder of CogVideoX's structure."""
        model = _diffusers_class()(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=config.block_out_channels,
            latent_channels=config.latent_channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_groups,
            temporal_compression_ratio=4,
            scaling_factor=1.0,
        )
        return cls(model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> CogVideoXAutoencoder:
        """The autoencoder in a diffusers folder (ours, or `CogVideoX-5b-I2V/vae`), in eval mode.

        options: passed on (`subfolder`, `torch_dtype`). Raises UserError where it cannot be loaded.
        """
        try:
            vae = _diffusers_class().from_pretrained(folder, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{folder} is not a loadable CogVideoX autoencoder: {reason}"
            ) from error
        return cls(vae).eval()

    @classmethod
    def outline(cls, folder: str | Path) -> CogVideoXAutoencoder:
        """The autoencoder as `folder`'s settings describe it, on the meta device; no weights are read."""
        found = _diffusers_class()
        with torch.device("meta"):
            return cls(found.from_config(found.load_config(folder))).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes diffusers' own format."""
        self.vae.save_pretrained(folder)

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    def encode(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c t_ h_ w_"]:
        """Mean latents times the configured scaling factor; raises UserError for sizes that do not fit."""
        height, width = frames.shape[-2:]
        latent_shape(frames.shape[1], height, width, self.latent_channels)
        return self._posterior(frames).mode() * self.vae.config.scaling_factor

    def decode(self, latents: Float[Tensor, "b c t_ h_ w_"]) -> Float[Tensor, "b t 3 h w"]:
        """Frames clamped to [0, 1]."""
        frames = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (frames.transpose(1, 2) * 0.5 + 0.5).clamp(0, 1)

    def forward(
        self, frames: Float[Tensor, "b t 3 h w"], generators: Sequence[torch.Generator] = ()
    ) -> tuple[Float[Tensor, "b t 3 h w"], Float[Tensor, ""]]:
        """Reconstruction, unclamped, and the latents' KL divergence from a unit normal per value.

        generators: on the CPU, one a sample: the latents are sampled; without them they are the mean.
        """
        posterior = self._posterior(frames)
        latents = posterior.mean
        if generators:
            noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators])
            latents = latents + posterior.std * noise.to(latents)
        frames_out = self.vae.decode(latents).sample.transpose(1, 2) * 0.5 + 0.5
        return frames_out, posterior.kl().mean() / latents[0].numel()

    def _posterior(self, frames: Float[Tensor, "b t 3 h w"]) -> Any:
        """diffusers' diagonal Gaussian over unscaled latents."""
        return self.vae.encode(frames.transpose(1, 2) * 2 - 1).latent_dist

    @torch.no_grad()
    def standardise(self, frames: Float[Tensor, "b t 3 h w"]) -> None:
        """Sets the scaling factor so that the latents of `frames` have unit variance."""
        factor = 1 / float(self._posterior(frames).mode().std())
        self.vae.register_to_config(scaling_factor=factor)


def _diffusers_class() -> type[AutoencoderKLCogVideoX]:
    mend_torchvision()
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX
