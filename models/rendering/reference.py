"""The reference renderer: gsplat's semantics in plain PyTorch, for reading and for testing against.

Every Gaussian meets every pixel, so it is for a few thousand Gaussians on small images. Works in the dtype of its
input; tests use float64. Gradients are autograd's.

Legend: n Gaussians, p pixels; all for one view of one scene.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.cameras import Cameras, pixel_centres
from models.gaussians import Gaussians, quat_to_matrix
from models.rendering.screen import ScreenTrace
from models.rendering.settings import (
    FRUSTUM_MARGIN,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    RenderSettings,
)
from models.rendering.spherical_harmonics import view_colors


def rasterise(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RenderSettings,
    trace: ScreenTrace | None = None,
) -> tuple[Float[Tensor, "b v 3 h w"], Float[Tensor, "b v h w"], Float[Tensor, "b v h w"]]:
    """Colour on black, sum of weight * z, and transmittance, of a batch `[b]` of scenes; a trace takes one."""
    colors = view_colors(gaussians, cameras)
    views = []
    for scene in range(gaussians.means.shape[0]):
        for view in range(cameras.num_views):
            color = colors[scene] if gaussians.sh_degree is None else colors[scene, view]
            views.append(
                render_view(
                    gaussians.sample(scene),
                    color,
                    cameras.world_to_camera[scene, view].to(color),
                    cameras.intrinsics[scene, view].to(color),
                    cameras.height,
                    cameras.width,
                    settings,
                    None if trace is None else (trace, view),
                )
            )
    frames, depth, transmittance = (
        torch.stack(parts).unflatten(0, (-1, cameras.num_views))
        for parts in zip(*views, strict=True)
    )
    return frames, depth, transmittance


def render_view(
    gaussians: Gaussians,
    colors: Float[Tensor, "n 3"],
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    height: int,
    width: int,
    settings: RenderSettings,
    traced: tuple[ScreenTrace, int] | None = None,
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Colour on black, sum of weight * z, and transmittance, of one view.

    traced: a trace to fill, and the number of this view in it.
    """
    centers, covariances, depths = project(gaussians, world_to_camera, intrinsics, height, width)
    sharp_determinant = determinant(covariances)
    covariances = covariances + settings.eps2d * torch.eye(2).to(covariances)
    dilated_determinant = determinant(covariances)
    opacities = gaussians.opacities
    if settings.antialiased:
        ratio = (sharp_determinant / dilated_determinant).clamp(min=0)
        opacities = opacities * ratio.sqrt()

    visible = (depths >= settings.near) & (depths <= settings.far)
    visible &= (dilated_determinant > 0) & (opacities >= MIN_ALPHA)
    if traced is not None:
        _record(traced, centers, covariances, opacities, visible, height, width)
    order = front_to_back(depths, visible)
    alphas = splat_alphas(
        centers[order], covariances[order], opacities[order], pixel_grid(height, width).to(centers)
    )
    weights, transmittance = composite(alphas)
    values = torch.cat([colors[order], depths[order, None]], dim=-1)
    image = (weights.T @ values).T.unflatten(1, (height, width))
    return image[:3], image[3], transmittance.unflatten(0, (height, width))


def _record(
    traced: tuple[ScreenTrace, int],
    centers: Float[Tensor, "n 2"],
    covariances: Float[Tensor, "n 2 2"],
    opacities: Float[Tensor, " n"],
    visible: Bool[Tensor, " n"],
    height: int,
    width: int,
) -> None:
    """Fills one view of a trace: the box of alpha >= MIN_ALPHA, where it holds the centre of a pixel."""
    trace, view = traced
    spread = torch.diagonal(covariances, dim1=-2, dim2=-1).detach().sqrt()
    reach = (2 * (opacities.detach() / MIN_ALPHA).clamp(min=1).log()).sqrt()[:, None] * spread
    last = reach.new_tensor([width, height]) - 0.5
    low, high = centers.detach() - reach, centers.detach() + reach
    first_pixel = (low - 0.5).ceil().clamp(min=0) + 0.5
    shown = visible & (first_pixel <= torch.minimum(high, last)).all(dim=-1)
    trace.record_radii(view, torch.where(shown, reach.amax(dim=-1), 0.0)[None].to(trace.radii))
    if centers.requires_grad:
        centers.register_hook(
            lambda gradient: trace.record_gradients(view, gradient[None].to(trace.gradients))
        )


def project(
    gaussians: Gaussians,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    height: int,
    width: int,
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2 2"], Float[Tensor, " n"]]:
    """Image positions [px], 2-D covariances [px^2] before dilation, and camera z, by EWA splatting."""
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    axes = quat_to_matrix(gaussians.quats) * gaussians.scales[:, None, :]
    covariances = rotation @ (axes @ axes.mT) @ rotation.T
    x, y, z = (gaussians.means @ rotation.T + translation).unbind(-1)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x, margin_y = FRUSTUM_MARGIN * width / fx, FRUSTUM_MARGIN * height / fy
    tan_x = (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    tan_y = (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [fx / z, zero, -fx * tan_x / z, zero, fy / z, -fy * tan_y / z], dim=-1
    ).unflatten(-1, (2, 3))
    centers = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    return centers, jacobian @ covariances @ jacobian.mT, z


def determinant(matrices: Float[Tensor, "n 2 2"]) -> Float[Tensor, " n"]:
    return matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]


def front_to_back(depths: Float[Tensor, " n"], visible: Bool[Tensor, " n"]) -> Tensor:
    """Indices of the visible Gaussians, nearest first, ties in the given order."""
    indices = visible.nonzero()[:, 0]
    return indices[torch.argsort(depths.detach()[indices], stable=True)]


def pixel_grid(height: int, width: int) -> Float[Tensor, "p 2"]:
    """Pixel centres (u, v) [px], by rows."""
    return pixel_centres(height, width)[..., :2].flatten(0, 1)


def splat_alphas(
    centers: Float[Tensor, "n 2"],
    covariances: Float[Tensor, "n 2 2"],
    opacities: Float[Tensor, " n"],
    pixels: Float[Tensor, "p 2"],
) -> Float[Tensor, "n p"]:
    """Each Gaussian's alpha at each pixel: clamped at MAX_ALPHA, 0 below MIN_ALPHA."""
    offsets = pixels - centers[:, None]
    sigma = 0.5 * torch.einsum("npi,nij,npj->np", offsets, torch.linalg.inv(covariances), offsets)
    alphas = (opacities[:, None] * torch.exp(-sigma)).clamp(max=MAX_ALPHA)
    return torch.where(alphas >= MIN_ALPHA, alphas, 0)


def composite(
    alphas: Float[Tensor, "n p"],
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " p"]]:
    """Alpha times the transmittance in front, for Gaussians sorted front to back, and what passes all of them.

    A pixel stops before the first Gaussian that would take its transmittance to MIN_TRANSMITTANCE or below.
    """
    unstopped = torch.cumprod(1 - alphas.detach(), dim=0)
    alphas = torch.where(unstopped > MIN_TRANSMITTANCE, alphas, 0)
    ones = alphas.new_ones(1, alphas.shape[1])
    passed = torch.cumprod(torch.cat([ones, 1 - alphas]), dim=0)
    return alphas * passed[:-1], passed[-1]
