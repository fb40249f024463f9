"""Video autoencoders behind one small interface: frames in [0, 1] to scaled latents and back.

Latents of t = 4 (t' - 1) + 1 frames are `[b c t' h/8 w/8]`; the first latent frame holds the first frame
alone, so that one image is a clip of one frame. Frame counts are 8k+1 (or 1): others do not round-trip.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError

SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4


@runtime_checkable
class VideoAutoencoder(Protocol):
    """What every autoencoder offers. Latents are scaled to about unit variance by its own statistics."""

    @property
    def latent_channels(self) -> int: ...

    def encode(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c t_ h_ w_"]:
        """Latents (the mean, no sampling) of frames in [0, 1]."""
        ...

    def decode(self, latents: Float[Tensor, "b c t_ h_ w_"]) -> Float[Tensor, "b t 3 h w"]:
        """Frames in [0, 1] of scaled latents."""
        ...


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of a clip; raises UserError where `num_frames` is not 1 or 8k+1."""
    if num_frames < 1 or num_frames % 8 != 1:
        below = max(1, (num_frames - 1) // 8 * 8 + 1)
        raise UserError(
            f"a clip has {num_frames} frames; the video autoencoder takes 8k+1 (1, 9, 17, 25, 49, ...):"
            f" use {below} or {below + 8}"
        )
    return (num_frames - 1) // TEMPORAL_FACTOR + 1


def latent_shape(
    num_frames: int, height: int, width: int, channels: int
) -> tuple[int, int, int, int]:
    """(c, t', h', w') of a clip's latents; raises UserError for sizes that do not divide by 8."""
    if height % SPATIAL_FACTOR or width % SPATIAL_FACTOR:
        raise UserError(f"frames are {height}x{width}; both sides must divide by {SPATIAL_FACTOR}")
    return (
        channels,
        num_latent_frames(num_frames),
        height // SPATIAL_FACTOR,
        width // SPATIAL_FACTOR,
    )
