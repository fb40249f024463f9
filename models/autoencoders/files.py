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
    return _class_in(Path(folder)).from_pretrained(folder)


def outline_autoencoder(folder: str | Path) -> CogVideoXAutoencoder | LinearCodec:
    """The autoencoder as the folder's settings describe it, on the meta device: no weights are read.

    Raises UserError where the settings are missing or another model's.
    """
    return _class_in(Path(folder)).outline(folder)


def save_autoencoder(autoencoder: VideoAutoencoder, folder: str | Path) -> None:
    """Writes an autoencoder so that `load_autoencoder` reads it back."""
    assert isinstance(autoencoder, LinearCodec | CogVideoXAutoencoder)
    autoencoder.save_pretrained(folder)


def _class_in(folder: Path) -> type[CogVideoXAutoencoder] | type[LinearCodec]:
    settings = folder / CONFIG_FILE
    diffusers = settings.is_file() and '"_class_name"' in settings.read_text()
    return CogVideoXAutoencoder if diffusers else LinearCodec
