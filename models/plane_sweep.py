"""Plane sweep: how well each Gaussian's cell matches the other frames, for a ladder of ray distances.

Ours; the paper leaves correspondence to attention alone. The colours that the latents hold linearly are
compared across frames along every ray, as in multi-view stereo, and a small convolutional network turns the
match costs and the trunk's raw prediction into a correction of that prediction.

Legend: b batch, t frames, s source frames, k distances, h w cells (half resolution).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from configs.loader import Config
from data.cameras import Cameras
from models.fake_tensors import has_values
from models.precision import full_precision
from models.rendering.threads import run_pieces

WORST_COST = 0.5
"""Cost of a distance at which no source frame sees the cell; colours are in [0, 1]."""


class PlaneSweepConfig(Config):
    """Sizes and range of the sweep. Distances are along rays, in scene units."""

    num_distances: int = Field(32, gt=1, description="evenly spaced in inverse distance")
    near: float = Field(0.3, gt=0)
    far: float = Field(40.0, gt=0)
    num_sources: int = Field(5, gt=0, description="frames compared with, evenly spaced")
    window: int = Field(5, gt=0, description="cells per side over which costs are averaged (odd)")
    softness: float = Field(0.01, gt=0, description="cost difference that counts as clear")
    width: int = Field(32, gt=0, description="channels of the correcting network")
    dilations: tuple[int, ...] = Field(
        (1, 2, 4), description="of its 3x3 convolutions, whose reach is what smooth surfaces lend"
    )


class PlaneSweep(nn.Module):
    """Corrects raw Gaussian channels by what the sweep finds; starts as a correction of zero."""

    def __init__(self, config: PlaneSweepConfig, num_channels: int) -> None:
        super().__init__()
        self.config = config
        inputs = config.num_distances + 2 + 3 + num_channels
        layers: list[nn.Module] = [nn.Conv2d(inputs, config.width, 1), nn.GELU()]
        for dilation in config.dilations:
            conv = nn.Conv2d(config.width, config.width, 3, padding=dilation, dilation=dilation)
            layers += [conv, nn.GELU()]
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
            least = costs.amin(dim=2, keepdim=True)
            fit = torch.exp((least - costs) / self.config.softness)
            ladder = torch.linspace(-1, 1, self.config.num_distances, device=raw.device)
            sharp = fit.square()
            expected = (sharp * ladder[:, None, None]).sum(dim=2, keepdim=True)
            expected = expected / sharp.sum(dim=2, keepdim=True)
        found = [fit, expected, 4 * least, colors.detach().movedim(-1, 2)]
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

        A frame is not compared with itself. Sources that do not see the point are left out; where none
        does the cost is `WORST_COST`. Costs are averaged over the window.
        """
        sources = evenly_spaced(colors.shape[1], self.config.num_sources)
        on_cpu = colors.device.type == "cpu" and has_values(colors)
        sweep = _sweep_on_cpu if on_cpu else _sweep
        inverse = (1 / self.distances()).to(colors)
        costs = sweep(colors, cameras.resize(*colors.shape[2:4]), inverse, sources)
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


def _projections(
    grid: Cameras, sources: list[int]
) -> tuple[Float[Tensor, "b t s 3 3"], Float[Tensor, "b t s 3"]]:
    """What takes a unit ray r of frame t and its inverse distance i to pixels of s: turn @ r + start * i."""
    to_image = (grid.intrinsics @ grid.world_to_camera[..., :3, :])[:, None, sources]
    turns = to_image[..., :3].expand(-1, grid.num_views, -1, -1, -1)
    origins = grid.positions[:, :, None, :, None]
    return turns, (turns @ origins)[..., 0] + to_image[..., 3]


def _sweep(
    colors: Float[Tensor, "b t h w 3"],
    grid: Cameras,
    inverse: Float[Tensor, " k"],
    sources: list[int],
) -> Float[Tensor, "b t k h w"]:
    """Match costs before averaging, on any device."""
    num_frames, height, width = colors.shape[1:4]
    images = colors.movedim(-1, 2)
    own = images.flatten(3).transpose(1, 2)[:, :, :, None]
    rays = grid.rays()[1].flatten(2, 3).mT
    turns, starts = _projections(grid, sources)
    total = count = torch.zeros(1, device=colors.device)
    for number, source in enumerate(sources):
        turned = turns[:, :, number] @ rays
        start = starts[:, :, number, :, None, None] * inverse[:, None]
        x, y, z = (turned[:, :, axis, None] + start[:, :, axis] for axis in range(3))
        u, v = x / z * (2 / width) - 1, y / z * (2 / height) - 1
        seen = (z > 1e-6) & (u.abs() < 1) & (v.abs() < 1)
        seen[:, source] = False
        places = torch.stack([u, v], dim=-1).flatten(1, 2).nan_to_num()
        found = F.grid_sample(images[:, source], places, padding_mode="border", align_corners=False)
        difference = (found.unflatten(2, (num_frames, -1)) - own).abs().mean(dim=1)
        total, count = total + difference * seen, count + seen
    costs = torch.where(count > 0, total / count.clamp_min(1), WORST_COST)
    return costs.unflatten(-1, (height, width))


def _sweep_on_cpu(
    colors: Float[Tensor, "b t h w 3"],
    grid: Cameras,
    inverse: Float[Tensor, " k"],
    sources: list[int],
) -> Float[Tensor, "b t k h w"]:
    """The same by a compiled kernel."""
    from models.plane_sweep_cpu import sweep_costs

    batch, num_frames, height, width = colors.shape[:4]
    images = F.pad(colors, (0, 1)).numpy()
    rays = grid.rays()[1].flatten(2, 3).contiguous().numpy()
    turns, starts = (x.contiguous().numpy() for x in _projections(grid, sources))
    costs = torch.empty(batch, num_frames, len(inverse), height * width)
    run_pieces(
        sweep_costs,
        batch * num_frames,
        images,
        rays,
        turns,
        starts,
        inverse.numpy(),
        np.asarray(sources),
        np.float32(WORST_COST),
        costs.numpy(),
    )
    return costs.unflatten(-1, (height, width))
