"""What views of a scene show of its surface: colour, and the depth at which half of what is seen lies nearer.

The mean depth of a pixel lies in mid-air where an edge and what is behind it share the pixel. The median does not
move away from the surfaces, and the mean over a thin layer of depth around it is as exact as the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, pixel_centres
from data.warping import unproject
from models.gaussians import Gaussians, quat_to_matrix
from models.rendering.render import render

LAYER_RATIO = 1.1
"""Depths are told apart in layers, each so many times as deep as the one before."""
MAX_LAYERS = 60
MIN_ALPHA = 0.5
"""A pixel shows a surface where the scene covers it at least so far."""
EMPTY_ALPHA = 0.05
"""Where it covers less, the pixel sees through to infinity."""
TRIM = 0.005
"""The layers span the mean depths but for this share at either end; two open ones hold what lies beyond."""


@dataclass(frozen=True)
class SurfaceViews:
    """Pictures of a scene with the depth of what they show, on the CPU.

    frames: colour over the background that was asked for. depth: z-depth, scene units; 0 where the scene covers
    less than `MIN_ALPHA` of a pixel, infinite where it covers less than `EMPTY_ALPHA`.
    """

    cameras: Cameras
    frames: Float[Tensor, "v 3 h w"]
    depth: Float[Tensor, "v h w"]

    def points(self) -> Float[Tensor, "n 3"]:
        """World points of all pixels that show a surface."""
        return unproject(self.cameras, self.depth)[self.shows]

    @property
    def shows(self) -> Bool[Tensor, "v h w"]:
        """Whether a pixel shows a surface."""
        return (self.depth > 0) & self.depth.isfinite()

    def facing(self) -> Float[Tensor, "v h w"]:
        """How a pixel's surface faces its camera: cosine of the angle between its normal and the way to the camera.

        The normal is that of the plane through the nearer neighbour along each image axis; 0 at lone pixels.
        """
        points = unproject(self.cameras, torch.where(self.shows, self.depth, torch.nan))
        along = [_nearer_step(points, self.depth, axis) for axis in (1, 2)]
        normal = torch.linalg.cross(*along)
        ray = points - self.cameras.positions[:, None, None]
        lengths = normal.norm(dim=-1) * ray.norm(dim=-1)
        return ((normal * ray).sum(-1).abs() / lengths).nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def see_surface(
    gaussians: Gaussians,
    cameras: Cameras,
    background: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> SurfaceViews:
    """The views of an unbatched scene; the cameras are taken to the scene's device.

    background: grey value. on_progress: takes the views done, and in all. Raises UserError where no view shows
    anything.
    """
    frames, depths = [], []
    cameras = cameras.to(gaussians.means.device)
    for view in range(cameras.num_views):
        frame, depth = _see(gaussians, cameras.select(view), background)
        frames.append(frame.cpu())
        depths.append(depth.cpu())
        if on_progress is not None:
            on_progress(view + 1, cameras.num_views)
    views = SurfaceViews(cameras.to("cpu"), torch.cat(frames), torch.cat(depths))
    if not bool(views.shows.any()):
        raise UserError(
            f"the scene shows nothing in {cameras.num_views} views: no pixel is covered by half or more; it is"
            " almost transparent or has flown apart, or the cameras are those of another scene"
        )
    return views


def depth_planes(gaussians: Gaussians, camera: Cameras) -> Float[Tensor, "n 3"]:
    """Each Gaussian's depth as a linear function of the pixel (RaDe-GS, arXiv 2406.01467, eq. 9).

    That is where a ray is densest in the Gaussian: of a flat one, its plane. Columns: z-depth at the image's middle,
    and its growth by each pixel to the right and down.
    """
    to_camera = camera.world_to_camera[0]
    centres = gaussians.means @ to_camera[:3, :3].mT + to_camera[:3, 3]
    depth = centres[:, 2].clamp(min=1e-6)
    ray = centres / depth[:, None]
    axes = to_camera[:3, :3] @ quat_to_matrix(gaussians.quats)
    whitened = (axes.mT @ ray[..., None])[..., 0] / gaussians.scales
    pull = (axes @ (whitened / gaussians.scales)[..., None])[..., 0]
    focal = camera.intrinsics[0].diagonal()[:2]
    slope = -depth[:, None] * pull[:, :2] / (whitened.square().sum(-1, keepdim=True) * focal)
    middle = focal.new_tensor([camera.width / 2, camera.height / 2])
    away = ray[:, :2] * focal + camera.intrinsics[0, :2, 2] - middle
    return torch.cat([(depth - (slope * away).sum(-1))[:, None], slope], dim=1)


def _see(
    gaussians: Gaussians, camera: Cameras, background: float
) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 h w"]]:
    drawn = render(gaussians, camera, background=gaussians.means.new_full((3,), background))
    tilted = replace(gaussians, colors=depth_planes(gaussians, camera))
    pixels = pixel_centres(camera.height, camera.width).to(drawn.depth)
    right, down = pixels[..., 0] - camera.width / 2, pixels[..., 1] - camera.height / 2
    covered = drawn.alpha >= MIN_ALPHA
    uncovered = torch.where(drawn.alpha < EMPTY_ALPHA, torch.inf, 0.0)
    if not bool(covered.any()):
        return drawn.frames.clamp(0, 1), uncovered
    near, far = torch.quantile(
        drawn.expected_depth[covered][:: max(1, int(covered.sum()) // 100_000)],
        drawn.depth.new_tensor([TRIM, 1 - TRIM]),
    ).tolist()
    near, far = near / LAYER_RATIO**2, far * LAYER_RATIO**2
    count = min(MAX_LAYERS, math.ceil(math.log(far / near) / math.log(LAYER_RATIO)))
    limits = [near * (far / near) ** (i / count) for i in range(count + 1)]
    # Sums over all Gaussians nearer than a limit: what lies behind does not change them.
    sums = [(torch.zeros_like(drawn.alpha), torch.zeros_like(drawn.depth))]
    for limit in [*limits, 1e10]:
        part = render(tilted, camera, far=limit)
        at_middle, rightward, downward = part.frames.unbind(1)
        sums.append((part.alpha, at_middle + rightward * right + downward * down))
    alpha, depth = (torch.stack(parts) for parts in zip(*sums, strict=True))
    middle = (alpha >= 0.5 * drawn.alpha).to(torch.uint8).argmax(dim=0, keepdim=True)
    upper, lower = (middle + 1).clamp(max=len(alpha) - 1), (middle - 2).clamp(min=0)
    weight = alpha.gather(0, upper) - alpha.gather(0, lower)
    mean = (depth.gather(0, upper) - depth.gather(0, lower)) / weight.clamp(min=1e-6)
    return drawn.frames.clamp(0, 1), torch.where(covered, mean[0], uncovered)


def _nearer_step(
    points: Float[Tensor, "v h w 3"], depth: Float[Tensor, "v h w"], axis: int
) -> Float[Tensor, "v h w 3"]:
    """The step in space to the next or from the last pixel along an image axis, whichever is shorter in depth."""
    last = points.shape[axis] - 1
    step = points.narrow(axis, 1, last) - points.narrow(axis, 0, last)
    rise = (depth.narrow(axis, 1, last) - depth.narrow(axis, 0, last)).abs().nan_to_num(torch.inf)
    rise = torch.where(step.isnan().any(-1), torch.inf, rise)
    edge = step.narrow(axis, 0, 1)
    forward, backward = (
        torch.cat(parts, dim=axis)
        for parts in (
            (step, torch.full_like(edge, torch.nan)),
            (torch.full_like(edge, torch.nan), step),
        )
    )
    wall = torch.full_like(rise.narrow(axis, 0, 1), torch.inf)
    is_forward = torch.cat([rise, wall], dim=axis) <= torch.cat([wall, rise], dim=axis)
    return torch.where(is_forward[..., None], forward, backward)
