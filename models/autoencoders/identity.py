"""Whose latents a model was trained on: latents of equal shape from another autoencoder mean something else."""

from __future__ import annotations

from configs.errors import UserError
from models.autoencoders.cogvideox import CogVideoXAutoencoder
from models.autoencoders.interface import VideoAutoencoder
from models.autoencoders.linear_codec import LinearCodec
from models.weight_probes import Probes, differ, probes_of


def latent_probes(autoencoder: VideoAutoencoder) -> Probes | None:
    """Weights that tell the autoencoder's latents from others; None for a kind that is not known."""
    if isinstance(autoencoder, LinearCodec):
        return probes_of(autoencoder.rest.analysis.weight)
    if isinstance(autoencoder, CogVideoXAutoencoder):
        vae = autoencoder.vae
        return probes_of(vae.encoder.conv_out.conv.weight * vae.config.scaling_factor)
    return None


def check_latents(
    autoencoder: VideoAutoencoder, channels: int, probes: Probes | None, reader: str
) -> None:
    """Raises UserError where `reader`, a model, was trained on the latents of another autoencoder.

    channels, probes: those of the latents it was trained on; without probes only channels are compared.
    """
    if autoencoder.latent_channels != channels:
        raise UserError(
            f"{reader} reads latents of {channels} channels, but the autoencoder's have"
            f" {autoencoder.latent_channels}; use the autoencoder that it was trained with"
        )
    if differ(probes, latent_probes(autoencoder)):
        raise UserError(
            f"{reader} was trained on the latents of another autoencoder of the same size; use that one, or"
            f" train {reader} on this one's latents"
        )
