"""A linear video codec with the CogVideoX autoencoder's latent shape, fitted in seconds.

The first frame and every later group of four are coded apart, so that it is causal in the same places. The
encoder is a strided convolution per 8x8 block; the decoder sees the neighbouring latents as well (a lapped
transform), so block edges agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from configs.loader import Config
from models.autoencoders.interface import SPATIAL_FACTOR, TEMPORAL_FACTOR, latent_shape
from models.pretrained import load_weights, read_config, save_pretrained
from models.ridge import bias_of, fit_convolution

KIND = "linear_codec"


class LinearCodecConfig(Config):
    """Sizes of the codec."""

    latent_channels: int = Field(16, gt=0)
    overlap: int = Field(
        4, ge=0, le=8, description="pixels that an encoder window adds on each side"
    )
    context: int = Field(3, gt=0, description="latents per side that the decoder sees (odd)")
    spread: float = Field(
        0.5,
        ge=0,
        le=1,
        description="how far latents keep the principal components' differences in size: 0 gives every"
        " channel unit variance; with more, a diffusion model's noise hides fine detail before coarse",
    )


class LinearCodec(nn.Module):
    """Linear encoder and decoder of frames in [0, 1]; implements `VideoAutoencoder`."""

    def __init__(self, config: LinearCodecConfig) -> None:
        super().__init__()
        if config.context % 2 == 0:
            raise UserError(f"linear codec: context is {config.context}, expected an odd number")
        self.config = config
        self.first = BlockCodec(1, config)
        self.rest = BlockCodec(TEMPORAL_FACTOR, config)

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    def encode(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c t_ h_ w_"]:
        """Latents of unit variance overall; raises UserError for sizes that do not fit."""
        height, width = frames.shape[-2:]
        num_latents = latent_shape(frames.shape[1], height, width, self.latent_channels)[1]
        parts = [self.first.encode(frames[:, :1])]
        if num_latents > 1:
            parts.append(self.rest.encode(frames[:, 1:]))
        return torch.cat(parts, dim=2)

    def decode(self, latents: Float[Tensor, "b c t_ h_ w_"]) -> Float[Tensor, "b t 3 h w"]:
        """Frames clamped to [0, 1]."""
        return self.decode_unclamped(latents).clamp(0, 1)

    def decode_unclamped(
        self, latents: Float[Tensor, "b c t_ h_ w_"]
    ) -> Float[Tensor, "b t 3 h w"]:
        """Frames before the clamp, for training."""
        parts = [self.first.decode(latents[:, :, :1])]
        if latents.shape[2] > 1:
            parts.append(self.rest.decode(latents[:, :, 1:]))
        return torch.cat(parts, dim=1)

    def forward(
        self, frames: Float[Tensor, "b t 3 h w"], generators: Sequence[torch.Generator] = ()
    ) -> tuple[Float[Tensor, "b t 3 h w"], Float[Tensor, ""]]:
        """Reconstruction, unclamped, and a zero: there is no latent distribution to sample or to bound."""
        return self.decode_unclamped(self.encode(frames)), frames.new_zeros(())

    @torch.no_grad()
    def fit(self, frames: Float[Tensor, "b t 3 h w"]) -> None:
        """Closed-form fit: principal components as encoder, ridge regression as decoder."""
        self.first.fit(frames[:, :1])
        self.rest.fit(frames[:, 1:])

    @torch.no_grad()
    def standardise(self, frames: Float[Tensor, "b t 3 h w"]) -> None:
        """Gives each latent channel mean 0, and all together variance 1, over `frames`; decoding is unchanged."""
        self.first.standardise(frames[:, :1])
        self.rest.standardise(frames[:, 1:])

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors`."""
        save_pretrained(self, self.config, Path(folder), KIND)

    @classmethod
    def outline(cls, folder: str | Path) -> LinearCodec:
        """The codec as `folder`'s settings describe it, on the meta device; no weights are read."""
        with torch.device("meta"):
            return cls(read_config(Path(folder), LinearCodecConfig, KIND)).eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LinearCodec:
        """The codec in `folder`; raises UserError where it is missing or does not fit."""
        model = cls(read_config(Path(folder), LinearCodecConfig, KIND))
        load_weights(model, Path(folder))
        return model.eval()


class BlockCodec(nn.Module):
    """Codes groups of `group` frames, each on its own, in 8x8 blocks."""

    def __init__(self, group: int, config: LinearCodecConfig) -> None:
        super().__init__()
        self.group, self.overlap, self.spread = group, config.overlap, config.spread
        channels = config.latent_channels
        self.analysis = nn.Conv2d(
            3 * group, channels, SPATIAL_FACTOR + 2 * config.overlap, stride=SPATIAL_FACTOR
        )
        self.synthesis = nn.Conv2d(
            channels,
            3 * group * SPATIAL_FACTOR**2,
            config.context,
            padding=config.context // 2,
            padding_mode="replicate",
        )

    def encode(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c t_ h_ w_"]:
        images = self._group(frames) - 0.5
        padded = F.pad(images, [self.overlap] * 4, mode="replicate")
        return self.analysis(padded).unflatten(0, (len(frames), -1)).transpose(1, 2)

    def decode(self, latents: Float[Tensor, "b c t_ h_ w_"]) -> Float[Tensor, "b t 3 h w"]:
        batch = len(latents)
        cells = self.synthesis(latents.transpose(1, 2).flatten(0, 1))
        images = F.pixel_shuffle(cells, SPATIAL_FACTOR) + 0.5
        return images.unflatten(1, (self.group, 3)).flatten(0, 1).unflatten(0, (batch, -1))

    def _group(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "n gc h w"]:
        """Groups of consecutive frames, stacked along channels (frame, then colour)."""
        return frames.unflatten(1, (-1, self.group)).flatten(2, 3).flatten(0, 1)

    def fit(self, frames: Float[Tensor, "b t 3 h w"]) -> None:
        images = self._group(frames) - 0.5
        blocks = F.pixel_unshuffle(images, SPATIAL_FACTOR)
        samples = blocks.permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = samples.mean(0)
        variances, components = torch.linalg.eigh(torch.cov((samples - mean).T))
        channels = self.analysis.out_channels
        sizes = variances[-channels:].flip(0).clamp_min(1e-12).sqrt()
        kept = sizes**self.spread
        basis = components[:, -channels:].flip(1) * (kept / kept.square().mean().sqrt() / sizes)

        kernel = basis.T.reshape(channels, 3 * self.group, SPATIAL_FACTOR, SPATIAL_FACTOR)
        self.analysis.weight.zero_()
        inner = slice(self.overlap, self.overlap + SPATIAL_FACTOR)
        self.analysis.weight[:, :, inner, inner] = kernel.float()
        bias_of(self.analysis).copy_(-(mean @ basis).float())
        latents = self.encode(frames).transpose(1, 2).flatten(0, 1)
        fit_convolution(self.synthesis, latents, blocks)

    def standardise(self, frames: Float[Tensor, "b t 3 h w"]) -> None:
        latents = self.encode(frames)
        mean = latents.mean(dim=(0, 2, 3, 4))
        std = (latents - mean[:, None, None, None]).square().mean().sqrt().clamp_min(1e-6)
        self.analysis.weight /= std
        bias_of(self.analysis).copy_((bias_of(self.analysis) - mean) / std)
        weight = self.synthesis.weight
        bias_of(self.synthesis).add_(torch.einsum("ochw,c->o", weight, mean))
        weight *= std
