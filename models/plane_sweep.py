"""Plane sweep: how well each Gaussian's cell matches the other frames, for a ladder of ray distances.

Ours; the paper leaves correspondence to attention alone. The colours that the latents hold linearly are
compared across frames along every ray, as in multi-view stereo, and a small convolutional network turns the
match costs and the trunk's raw prediction into a correction of that prediction.

Legend: b batch, t frames, s source frames, k distances, h w cells (half resolution).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from configs.loader import Config
from data.cameras import Cameras
from models.precision import full_precision

WORST_COST = 0.5
"""Cost of a distance at which no source frame sees the cell; colours are in [0, 1]."""


class PlaneSweepConfig(Config):
    """Sizes and range of the sweep. Distances are along rays, in scene units."""

    num_distances: int = Field(24, gt=1, description="evenly spaced in inverse distance")
    near: float = Field(0.3, gt=0)
    far: float = Field(40.0, gt=0)
    num_sources: int = Field(3, gt=0, description="frames compared with, evenly spaced")
    window: int = Field(3, gt=0, description="cells per side over which costs are averaged (odd)")
    softness: float = Field(0.03, gt=0, description="cost difference that counts as clear")
    width: int = Field(32, gt=0, description="channels of the correcting network")
    layers: int = Field(2, gt=0, description="its hidden 3x3 convolutions")


class PlaneSweep(nn.Module):
    """Corrects raw Gaussian channels by what the sweep finds; starts as a correction of zero."""

    def __init__(self, config: PlaneSweepConfig, num_channels: int) -> None:
        super().__init__()
        self.config = config
        inputs = config.num_distances + 2 + 3 + num_channels
        layers: list[nn.Module] = [nn.Conv2d(inputs, config.width, 1), nn.GELU()]
        for _ in range(config.layers):
            layers += [nn.Conv2d(config.width, config.width, 3, padding=1), nn.GELU()]
        last = nn.Conv2d(config.width, num_channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.network = nn.Sequential(*layers, last)

    def forward(
        self,
        raw: Float[Tensor, "b t h w c"],
        colors: Float[Tensor, "b t h w 3"],
        cameras: Cameras,
    ) -> Float[Tensor, "b t h w c"]:
        """`raw` plus a correction. colors: in [0, 1], what the cells look like; no gradient goes into it."""
        with torch.no_grad(), full_precision(raw.device):
            costs = self.costs(colors.detach().float(), cameras)
            likelihood = torch.softmax(-costs / self.config.softness, dim=2)
            ladder = torch.linspace(-1, 1, self.config.num_distances, device=raw.device)
            expected = (likelihood * ladder[:, None, None]).sum(dim=2, keepdim=True)
            least = costs.amin(dim=2, keepdim=True)
        found = [4 * likelihood, expected, 4 * least, colors.detach().movedim(-1, 2)]
        features = torch.cat([*found, raw.movedim(-1, 2)], dim=2).flatten(0, 1)
        return raw + self.network(features).unflatten(0, raw.shape[:2]).movedim(2, -1)

    def distances(self) -> Float[Tensor, " k"]:
        """The ladder of ray distances, from near to far."""
        config = self.config
        return 1 / torch.linspace(1 / config.near, 1 / config.far, config.num_distances)

    def costs(
        self, colors: Float[Tensor, "b t h w 3"], cameras: Cameras
    ) -> Float[Tensor, "b t k h w"]:
        """Mean absolute colour difference to the source frames, were the cell's surface at each distance.

        A frame is not compared with itself. Sources that do not see the point are left out.
        """
        num_frames, height, width = colors.shape[1:4]
        images = colors.movedim(-1, 2)
        own = images.flatten(3).transpose(1, 2)[:, :, :, None]
        grid = cameras.resize(height, width)
        origins, directions = grid.rays()
        rays = directions.flatten(2, 3).mT  # [b t 3 hw]
        inverse = (1 / self.distances()).to(rays)[:, None]
        total = torch.zeros(1, device=rays.device)
        count = torch.zeros(1, device=rays.device)
        for source in evenly_spaced(num_frames, self.config.num_sources):
            # A point o + r d projects to K R d + K (R o + T) / r, up to scale.
            to_image = grid.intrinsics[:, source, None] @ grid.world_to_camera[:, source, None, :3]
            turned = to_image[..., :3] @ rays
            start = to_image[..., :3] @ origins[..., None] + to_image[..., 3:]
            x, y, z = (turned[:, :, i, None] + start[:, :, i, None] * inverse for i in range(3))
            z_inverse = 1 / z.clamp_min(1e-6)
            u, v = x * z_inverse * (2 / width) - 1, y * z_inverse * (2 / height) - 1
            seen = (z > 1e-6) & (u.abs() < 1) & (v.abs() < 1)
            seen[:, source] = False
            places = torch.stack([u, v], dim=-1).flatten(1, 2)
            found = F.grid_sample(
                images[:, source], places, padding_mode="border", align_corners=False
            )
            difference = found.unflatten(2, (num_frames, -1))  # [b 3 t k hw]
            difference.sub_(own).abs_()
            total = total + (difference[:, 0] + difference[:, 1] + difference[:, 2]) / 3 * seen
            count = count + seen
        costs = torch.where(count > 0, total / count.clamp_min(1), WORST_COST)
        costs = costs.unflatten(-1, (height, width))
        window = self.config.window
        averaged = F.avg_pool2d(
            costs.flatten(0, 1), window, 1, window // 2, count_include_pad=False
        )
        return averaged.unflatten(0, costs.shape[:2])


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `count`, the first and last among them."""
    if wanted == 1 or count == 1:
        return [count // 2]
    wanted = min(wanted, count)
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]
