"""Which autoencoder a weights folder holds."""

from __future__ import annotations

from pathlib import Path

from models.autoencoders.cogvideox import CogVideoXAutoencoder
from models.autoencoders.interface import VideoAutoencoder
from models.autoencoders.linear_codec import LinearCodec
from models.pretrained import CONFIG_FILE


def load_autoencoder(folder: str | Path) -> VideoAutoencoder:
    """The autoencoder in a weights folder: our linear codec, or a CogVideoX one in diffusers' format.

    Raises UserError where the folder is missing or holds another model.
    """
    settings = Path(folder) / CONFIG_FILE
    if settings.is_file() and '"_class_name"' in settings.read_text():
        return CogVideoXAutoencoder.from_pretrained(folder)
    return LinearCodec.from_pretrained(folder)


def save_autoencoder(autoencoder: VideoAutoencoder, folder: str | Path) -> None:
    """Writes an autoencoder so that `load_autoencoder` reads it back."""
    assert isinstance(autoencoder, LinearCodec | CogVideoXAutoencoder)
    autoencoder.save_pretrained(folder)
