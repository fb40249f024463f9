"""Where a fit from nothing starts: Gaussians at pixels of the frames, at random depths or at given ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.gaussians import Gaussians


class StartConfig(Config):
    """Where a fit from nothing starts: Gaussians at random pixels and random depths."""

    num_gaussians: int = Field(20_000, gt=0)
    near: float = Field(0.4, gt=0, description="smallest z-depth, scene units")
    far: float = Field(10.0, gt=0, description="largest z-depth; uniform in inverse depth")
    opacity: float = Field(0.1, gt=0, lt=1)
    footprint: float = Field(
        0.7, gt=0, description="standard deviation as a share of the mean spacing at its depth"
    )


def random_gaussians(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    config: StartConfig,
    generator: torch.Generator,
) -> Gaussians:
    """Gaussians at random pixels of random views and at random depths, in their pixels' colours."""
    num_views, _, height, width = frames.shape
    count = config.num_gaussians
    views = torch.randint(num_views, (count,), generator=generator)
    rows = torch.randint(height, (count,), generator=generator)
    columns = torch.randint(width, (count,), generator=generator)
    share = torch.rand(count, generator=generator)
    depth = 1 / (1 / config.far + share * (1 / config.near - 1 / config.far))
    return gaussians_at_pixels(
        frames, cameras, (views, rows, columns), depth, config.opacity, config.footprint
    )


def gaussians_from_depth(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "v h w"],
    config: StartConfig,
    generator: torch.Generator,
) -> Gaussians:
    """As `random_gaussians`, but at the given z-depths [scene units]; 0 is unknown and left out."""
    known = torch.nonzero(depth > 0)
    if not len(known):
        raise UserError(
            "fit: no pixel of the depth maps is known; start from random depths instead"
        )
    chosen = torch.randperm(len(known), generator=generator)[: config.num_gaussians]
    views, rows, columns = known[chosen].unbind(1)
    return gaussians_at_pixels(
        frames,
        cameras,
        (views, rows, columns),
        depth[views, rows, columns],
        config.opacity,
        config.footprint,
    )


def gaussians_at_pixels(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    pixels: tuple[Tensor, Tensor, Tensor],
    depth: Float[Tensor, " n"],
    opacity: float,
    footprint: float,
) -> Gaussians:
    """Round Gaussians on the rays of `pixels` (view, row, column), in the pixels' colours.

    Their standard deviation is `footprint` times the spacing at their depth of as many Gaussians,
    spread evenly over one image.
    """
    views, rows, columns = pixels
    count, (_, _, height, width) = len(views), frames.shape
    origins, directions = cameras.rays()
    to_world = cameras.camera_to_world
    along = directions[views, rows, columns]
    along = along / (along * to_world[views, :3, 2]).sum(-1, keepdim=True)
    spacing_px = max(1.0, (height * width / count) ** 0.5)
    spread = footprint * spacing_px * depth / cameras.intrinsics[views, 0, 0]
    identity = frames.new_tensor([1.0, 0.0, 0.0, 0.0])
    return Gaussians(
        means=(origins[views] + depth[:, None] * along).to(frames.dtype),
        quats=identity.expand(count, 4).clone(),
        scales=spread[:, None].expand(count, 3).to(frames.dtype).clone(),
        opacities=frames.new_full((count,), opacity),
        colors=frames[views, :, rows, columns].clone(),
    )
