"""Frames looked up from other cameras: by depth, or as if the scene were one plane."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.cameras import Cameras, pixel_centres


def plane_points(
    sources: Cameras, targets: Cameras, depths: Float[Tensor, " v"]
) -> Float[Tensor, "v h w 3"]:
    """Where the rays of target v meet the plane that faces source v at z-depth `depths[v]` [scene units].

    Rays that run along the plane or away from it meet it nowhere and give a point very far along the ray.
    """
    origins, directions = targets.rays()
    # The plane's points x satisfy axis . x = offset, where axis is the source's viewing direction.
    axes = sources.camera_to_world[:, :3, 2]
    offsets = (axes * sources.positions).sum(-1) + depths
    approach = torch.einsum("vj,vhwj->vhw", axes, directions)
    distance = (offsets - (axes * origins).sum(-1))[:, None, None] / approach
    meets = (approach > 1e-6) & (distance > 0)
    distance = torch.where(meets, distance, torch.full_like(distance, 1e6))
    return origins[:, None, None, :] + distance[..., None] * directions


def unproject(cameras: Cameras, depth: Float[Tensor, "v h w"]) -> Float[Tensor, "v h w 3"]:
    """World points of pixel centres at the given z-depths [scene units]."""
    pixels = pixel_centres(cameras.height, cameras.width).to(cameras.intrinsics)
    local = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.intrinsics), pixels)
    to_world = cameras.camera_to_world
    points = torch.einsum("vij,vhwj->vhwi", to_world[:, :3, :3], local * depth[..., None])
    return points + to_world[:, None, None, :3, 3]


def look_up(
    frames: Float[Tensor, "v c h w"], cameras: Cameras, points: Float[Tensor, "v h_ w_ 3"]
) -> tuple[Float[Tensor, "v c h_ w_"], Bool[Tensor, "v h_ w_"]]:
    """What frame v shows at its world points v, bilinear, and which of the points it shows.

    Outside the frame the border repeats; points at or behind the camera plane are looked up as if just
    before it.
    """
    to_camera = cameras.world_to_camera
    local = torch.einsum("vij,vhwj->vhwi", to_camera[:, :3, :3], points)
    local = local + to_camera[:, None, None, :3, 3]
    z = local[..., 2:].clamp(min=1e-6)
    image = torch.einsum("vij,vhwj->vhwi", cameras.intrinsics, torch.cat([local[..., :2], z], -1))
    size = image.new_tensor([cameras.width, cameras.height])
    grid = 2 * (image[..., :2] / z) / size - 1
    shown = (grid.abs() <= 1).all(-1) & (local[..., 2] > 1e-6)
    values = torch.nn.functional.grid_sample(
        frames, grid.to(frames.dtype), padding_mode="border", align_corners=False
    )
    return values, shown
