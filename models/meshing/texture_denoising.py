"""Textures drawn anew by a diffusion prior, round by round.

DreamGaussian's second stage (arXiv 2309.16653, sec. 3.3): the textured mesh is looked at, its pictures are taken part
of the way to noise and back by the prior, and the texture is fitted to what comes out by pixel MSE, with the noise
falling from round to round. Two things are ours. The fit is a least-squares solution for many views at once, not a
step for each. And pictures are changed by as much as the prior changes them, at the prior's size, so that detail that
is finer than its pixels, or that its autoencoder loses, stays.

A picture that is known, the scene's input, takes part in every round's fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from pydantic import Field, field_validator
from torch import Tensor

from configs.loader import Config
from data.cameras import Cameras
from models.meshing.extraction import Progress
from models.meshing.files import TexturedMesh
from models.meshing.rasteriser import draw
from models.meshing.texture_fit import TextureViews, refine_texture, texture_views
from models.meshing.unwrap import Unwrapped
from models.priors.denoising import MOST_NOISE, denoised_change
from models.priors.interface import DiffusionPrior

SAMPLES = 2
"""Of the texture, along each side of a pixel."""

DrawCameras = Callable[[torch.Generator], Cameras]
"""Draws views for a prior to look at together: as many as it wants, in its frame size."""


class TextureDenoiseConfig(Config):
    """How a prior draws a texture anew. noise: levels of the first and the last round, shares of the schedule;
    DreamGaussian's are these, which its code counts from the other end.
    """

    noise: tuple[float, float] = (0.2, 0.05)
    rounds: int = Field(3, gt=0)
    denoise_steps: int = Field(10, gt=0, description="predictions for each picture in a round")
    pictures: int = Field(32, gt=0, description="a round, at least")
    image_weight: float = Field(
        1.0, ge=0, description="of a known picture, beside 1 of a round's other pictures together"
    )
    fit_steps: int = Field(10, gt=0, description="conjugate-gradient steps of each fit")
    hold: float = Field(0.01, gt=0, description="see `refine_texture`")
    smooth: float = Field(0.3, ge=0, description="see `refine_texture`")

    @field_validator("noise")
    @classmethod
    def _noise_falls(cls, noise: tuple[float, float]) -> tuple[float, float]:
        first, last = noise
        if not 0 <= last <= first <= MOST_NOISE:
            raise ValueError(f"expected 0 <= last <= first <= {MOST_NOISE}")
        return noise

    def noise_of(self, number: int) -> float:
        """The noise level of a round."""
        first, last = self.noise
        return first + (last - first) * (number / max(1, self.rounds - 1))


@dataclass(frozen=True)
class KnownPicture:
    """What a camera `[1]` is known to see. shown: pixels that the fit may look at."""

    frame: Float[Tensor, "3 h w"]
    camera: Cameras
    shown: Bool[Tensor, "h w"]


@dataclass(frozen=True)
class Wanted:
    """Pixels of any views, flattened, with the colours that they should have."""

    uvs: Float[Tensor, "n 2"]
    colors: Float[Tensor, "n 3"]
    weights: Float[Tensor, " n"]


def denoise_texture(
    textured: TexturedMesh,
    prior: DiffusionPrior,
    draw_cameras: DrawCameras,
    config: TextureDenoiseConfig,
    generator_of: Callable[[int], torch.Generator],
    *,
    background: float,
    known: KnownPicture | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    rounds_done: int = 0,
    on_round: Callable[[int, TexturedMesh], None] | None = None,
) -> TexturedMesh:
    """The mesh with the texture that the prior makes of it.

    generator_of: makes each round's, of views and noise, on the CPU. background: grey value where a view shows no mesh.
    device: the prior's. rounds_done: the texture is what so many rounds made of it. on_round: told after each round
    how many are done, and what they made.
    """
    unwrapped, texture = textured.unwrapped, textured.texture
    anchor = None if known is None else finer_views(unwrapped, known.camera)
    for number in range(rounds_done, config.rounds):
        generator = generator_of(number)
        stage = f"round {number + 1} of {config.rounds}"
        parts, done = [], 0
        while done < config.pictures:
            cameras = draw_cameras(generator)
            views = finer_views(unwrapped, cameras)
            change = denoised_change(
                prior,
                views.pictures(texture, background, SAMPLES).to(device),
                cameras,
                config.noise_of(number),
                config.denoise_steps,
                generator,
            )
            parts.append(wanted(views, texture, change.cpu(), 1.0))
            done += cameras.num_views
            if progress is not None:
                progress(f"{stage}, denoising", min(done, config.pictures), config.pictures)
        if known is not None and anchor is not None:
            missing = known.frame[None] - anchor.pictures(texture, background, SAMPLES)
            weight = config.image_weight * done * known.shown.to(texture.dtype)
            parts.append(wanted(anchor, texture, missing, weight))
        texture = fitted(texture, parts, config)
        if on_round is not None:
            on_round(number + 1, replace(textured, texture=texture))
    return replace(textured, texture=texture)


def finer_views(unwrapped: Unwrapped, cameras: Cameras) -> TextureViews:
    """Views with `SAMPLES` samples along each side of a pixel."""
    finer = cameras.resize(cameras.height * SAMPLES, cameras.width * SAMPLES)
    return texture_views(unwrapped, draw(unwrapped.mesh, finer))


def wanted(
    views: TextureViews,
    texture: Float[Tensor, "3 size size"],
    change: Float[Tensor, "v 3 h w"],
    weight: Float[Tensor, "h w"] | float,
) -> Wanted:
    """What finer views show of the texture, changed; `change` and `weight` are by pixel, not by sample."""
    finer = torch.nn.functional.interpolate(
        change, scale_factor=float(SAMPLES), mode="bilinear", align_corners=False
    )
    colors = (views.look_up(texture) + finer).movedim(1, -1)
    weights = torch.as_tensor(weight, dtype=texture.dtype).expand(change[:, 0].shape)
    for dim in (1, 2):
        weights = weights.repeat_interleave(SAMPLES, dim)
    return Wanted(views.uvs[views.covered], colors[views.covered], weights[views.covered])


def fitted(
    texture: Float[Tensor, "3 size size"], parts: list[Wanted], config: TextureDenoiseConfig
) -> Float[Tensor, "3 size size"]:
    """The texture nearest to what is wanted, by `refine_texture`."""
    uvs, colors, weights = (
        torch.cat([getattr(part, name) for part in parts])[None, None]
        for name in ("uvs", "colors", "weights")
    )
    return refine_texture(
        texture,
        TextureViews(uvs, torch.ones_like(weights, dtype=torch.bool)),
        colors.movedim(-1, 1),
        weights=weights,
        steps=config.fit_steps,
        hold=config.hold,
        smooth=config.smooth,
    )
