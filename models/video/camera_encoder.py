"""Turns the rays of a clip's cameras into tokens that lie as the video's visual tokens do.

Legend: b batch, t frames, p latent frames (t = 4 (p - 1) + 1), h w frame size, l tokens, d token width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoders.interface import SPATIAL_FACTOR
from models.precision import full_precision


class CameraEncoder(nn.Module):
    """Patches of rays, two convolutions that halve the time, then patches to tokens.

    Wonderland, sec. 3.2, "light" and no more is said: the layers are ours. In time they are causal, as the video
    autoencoder is, so that a token sees the cameras of its own frames and earlier ones.
    """

    def __init__(self, width: int, token_width: int, patch: int, moment_gain: float = 1.0) -> None:
        super().__init__()
        self.pixels = RayPatches(width, moment_gain)
        self.halve = HalfTime(width)
        self.quarter = HalfTime(width)
        self.tokens = nn.Conv2d(width, token_width, patch, stride=patch)
        self.norm = nn.LayerNorm(token_width)

    def forward(self, rays: Float[Tensor, "b t 6 h w"]) -> Float[Tensor, "b l d"]:
        """Tokens ordered by latent frame, row, column. rays: from `Cameras.plucker`, in float32."""
        batch = len(rays)
        # In float32 until the time is quartered: neighbouring frames' rays differ by less than half precision resolves.
        with full_precision(rays.device):
            features = self.pixels(rays.flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
            features = F.silu(self.halve(F.silu(features)))
            features = F.silu(self.quarter(features))
        features = features.transpose(1, 2).flatten(0, 1).to(self.tokens.weight.dtype)
        tokens = self.tokens(features).flatten(2).mT.unflatten(0, (batch, -1)).flatten(1, 2)
        return self.norm(tokens)


class RayPatches(nn.Conv2d):
    """A convolution over each frame's patches, one per latent pixel, in float32 whatever its weights are in."""

    def __init__(self, width: int, moment_gain: float) -> None:
        super().__init__(6, width, SPATIAL_FACTOR, stride=SPATIAL_FACTOR)
        self.moment_gain = moment_gain

    def forward(self, rays: Float[Tensor, "n 6 h w"]) -> Float[Tensor, "n c h_ w_"]:
        assert self.bias is not None
        gains = rays.new_tensor([self.moment_gain] * 3 + [1.0] * 3, dtype=torch.float32)
        weight = self.weight.float() * gains[:, None, None]
        return F.conv2d(rays.float(), weight, self.bias.float(), SPATIAL_FACTOR)


class HalfTime(nn.Conv3d):
    """A 3x3x3 convolution to every other frame, in float32 whatever its weights are in.

    It sees no later frame: the first one is repeated before the start.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=(2, 1, 1), padding=(0, 1, 1))

    def forward(self, features: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t_ h w"]:
        assert self.bias is not None
        past = features[:, :, :1].expand(-1, -1, 2, -1, -1)
        features = torch.cat([past, features], dim=2)
        return F.conv3d(
            features, self.weight.float(), self.bias.float(), stride=(2, 1, 1), padding=(0, 1, 1)
        )
