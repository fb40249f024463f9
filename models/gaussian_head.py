"""The one place where raw network outputs become Gaussians: nothing after it activates again."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from configs.loader import Config
from data.cameras import Cameras
from models.gaussians import Gaussians


class GaussianHeadConfig(Config):
    """Activations. The paper does not publish its own; these defaults are ours.

    Distances are along the ray, in scene units (the first frame's median depth is about 1).
    """

    distance: Literal["log", "inverse", "linear"] = Field(
        "log", description="what the network's output is linear in"
    )
    near: float = Field(0.08, gt=0, description="smallest ray distance")
    far: float = Field(40.0, gt=0, description="largest ray distance")
    initial_distance: float = Field(1.2, gt=0, description="distance at output 0")
    scale_bias: float = Field(
        0.7, gt=0, description="standard deviation at output 0, in footprints of a Gaussian's cell"
    )
    scale_range: float = Field(1.5, gt=0, description="largest change of the log scale")
    opacity_bias: float = Field(0.0, description="opacity logit at output 0")


class GaussianHead(nn.Module):
    """Raw channels (colour 3, scale 3, quaternion 4, opacity 1, distance 1) to Gaussians on camera rays."""

    num_channels = 12

    def __init__(self, config: GaussianHeadConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, raw: Float[Tensor, "b t gh gw 12"], cameras: Cameras) -> Gaussians:
        """One Gaussian a grid cell: centre = camera position + distance * unit ray direction.

        cameras: `[b t]` at any image size; rays are cast through the centres of the gh x gw cells.
        Scales are a factor times the cell's footprint at the (detached) distance.
        """
        config = self.config
        grid = cameras.resize(raw.shape[2], raw.shape[3])
        origins, directions = grid.rays()
        color, scale, quat, opacity, distance = raw.split([3, 3, 4, 1, 1], dim=-1)

        distance = self.distance(distance)
        means = origins[:, :, None, None] + distance * directions
        footprint = distance.detach() / grid.intrinsics[:, :, 0, 0][:, :, None, None, None]
        bounded = config.scale_range * torch.tanh(scale / config.scale_range)
        identity = quat.new_tensor([1.0, 0.0, 0.0, 0.0])
        return Gaussians(
            means=means.flatten(1, 3),
            quats=nn.functional.normalize(quat + identity, dim=-1).flatten(1, 3),
            scales=(footprint * config.scale_bias * torch.exp(bounded)).flatten(1, 3),
            opacities=torch.sigmoid(opacity + config.opacity_bias).flatten(1, 4),
            colors=torch.sigmoid(color).flatten(1, 3),
        )

    def distance(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Ray distances in (near, far), equal to `initial_distance` at 0."""
        config = self.config
        if config.distance == "log":
            low, high = math.log(config.near), math.log(config.far)
            start = math.log(config.initial_distance)
        elif config.distance == "inverse":
            low, high, start = 1 / config.far, 1 / config.near, 1 / config.initial_distance
        else:
            low, high, start = config.near, config.far, config.initial_distance
        share = (start - low) / (high - low)
        # The gain makes the slope at 0 equal to 1 in the mapped quantity for the log mapping.
        gain = 1 / ((high - low) * share * (1 - share)) if config.distance == "log" else 1.0
        value = low + (high - low) * torch.sigmoid(raw * gain + math.log(share / (1 - share)))
        if config.distance == "log":
            return torch.exp(value)
        return 1 / value if config.distance == "inverse" else value
