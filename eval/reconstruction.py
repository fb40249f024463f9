"""From posed frames to a scene: the two models in a row, and their renders. Shared by every command."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.errors import UserError
from data.cameras import Cameras, stack_cameras
from data.clips import Clip
from models.autoencoders.files import load_autoencoder
from models.autoencoders.identity import check_latents
from models.autoencoders.interface import VideoAutoencoder
from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM
from models.gaussians import Gaussians
from models.lalrm import LaLRM
from models.rendering.render import Rendering, render

BACKGROUND = 0.5
"""Grey behind the Gaussians; the recipes train with the same."""


@dataclass(frozen=True)
class Models:
    """A video autoencoder and the LaLRM that reads its latents."""

    autoencoder: VideoAutoencoder
    lalrm: LaLRM


@dataclass(frozen=True)
class Reconstruction:
    """A scene predicted in one pass, and the wall seconds of each stage."""

    gaussians: Gaussians
    seconds: dict[str, float]


def load_models(autoencoder: Path, lalrm: Path) -> Models:
    """Both models from their weights folders; raises UserError where they do not fit each other."""
    for folder in (autoencoder, lalrm):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such weights folder; the bundled ones are {TINY_AUTOENCODER} and"
                f" {TINY_LALRM}, and training writes others to runs/NAME/weights"
            )
    codec, model = load_autoencoder(autoencoder), LaLRM.from_pretrained(lalrm)
    check_latents(codec, model.config.latent_channels, model.config.latent_probes, f"{lalrm}")
    return Models(codec, model)


@torch.no_grad()
def reconstruct_clip(inputs: Clip, autoencoder: VideoAutoencoder, lalrm: LaLRM) -> Reconstruction:
    """The scene of a clip whose frames all go in; its cameras are relative to the first of them.

    Raises UserError where the number or size of the frames does not suit the models.
    """
    started = time.monotonic()
    latents = autoencoder.encode(inputs.frames[None])
    encoded = time.monotonic()
    gaussians = lalrm(latents, stack_cameras([inputs.cameras])).sample(0)
    finished = time.monotonic()
    seconds = {"encode": encoded - started, "reconstruct": finished - encoded}
    return Reconstruction(gaussians, seconds)


@torch.no_grad()
def render_scene(gaussians: Gaussians, cameras: Cameras) -> Rendering:
    """The scene's views over the grey that models are trained with, frames clamped to [0, 1]."""
    background = gaussians.means.new_full((3,), BACKGROUND)
    drawn = render(gaussians, cameras, background=background)
    return Rendering(drawn.frames.clamp(0, 1), drawn.depth, drawn.alpha)
