"""The scene that fits some views of a clip best: what 3D consistency is measured by.

Everything that has a length is told in pixels or in the clip's own scene units, so that a clip means the same
whatever its unit of length, its size and the number of its views.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator

from configs.loader import Config
from data.clips import Clip
from models.device_choice import device_of
from models.gaussians import Gaussians
from train.fitting.fit import FitConfig, fit_gaussians
from train.fitting.parameters import FitRates
from train.fitting.starts import StartConfig, gaussians_from_depth
from train.randomness import derive_seed
from train.swept_depth import SweepConfig, swept_depth


class SceneFitConfig(Config):
    """How a scene is fitted to views. The defaults are measured (eval/validation/consistency.md)."""

    passes: int = Field(45, gt=0, description="times that each view is drawn, on average")
    views_per_step: int = Field(2, gt=0)
    gaussians_per_pixel: float = Field(
        0.5, gt=0, description="Gaussians of the scene, as a share of one frame's pixels"
    )
    opacity: float = Field(0.5, gt=0, lt=1, description="of the first Gaussians")
    footprint: float = Field(0.7, gt=0, description="their size, as a share of their spacing")
    step_px: float = Field(
        0.45, gt=0, description="rate of the centres, pixels a step at the scene's depth"
    )
    rates: FitRates = Field(
        FitRates(quats=2e-2, scales=4e-2, opacities=0.1, colors=2e-2),
        description="of everything else; that of the means is not used",
    )
    ssim_weight: float = Field(0.2, ge=0, le=1, description="of 1 - SSIM beside L1 in the loss")
    sweep: SweepConfig = SweepConfig()
    device: str = Field("cpu", description="where to fit; on cuda gsplat draws")

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str) -> str:
        try:
            torch.device(value)
        except RuntimeError:
            raise ValueError(f"found {value!r}, expected cpu, cuda or cuda:N") from None
        return value


def fit_scene(clip: Clip, views: Sequence[int], config: SceneFitConfig, seed: int) -> Gaussians:
    """Gaussians fitted to the given views of a clip, whose unit of length is about its scene's depth.

    The other views are not looked at, neither by the fit nor by the sweep that places the first Gaussians.
    A function of frames, cameras, views, config and seed alone, on one kind of device. Raises UserError where
    the device is not there.
    """
    device = device_of(config.device, "device")
    frames, cameras = clip.frames[list(views)], clip.cameras.select(views)
    generator = torch.Generator().manual_seed(derive_seed("scene fit", seed))
    num_pixels = cameras.height * cameras.width
    start = StartConfig(
        num_gaussians=max(1, round(config.gaussians_per_pixel * num_pixels)),
        opacity=config.opacity,
        footprint=config.footprint,
    )
    depth = swept_depth(frames, cameras, config.sweep)
    initial = gaussians_from_depth(frames, cameras, depth, start, generator)
    focal_px = float(cameras.intrinsics[:, 0, 0].median())
    settings = FitConfig(
        iterations=-(-config.passes * len(views) // config.views_per_step),
        views_per_step=config.views_per_step,
        rates=config.rates.model_copy(update={"means": config.step_px / focal_px}),
        ssim_weight=config.ssim_weight,
    )
    return fit_gaussians(
        initial.to(device), frames.to(device), cameras.to(device), settings, generator
    )
