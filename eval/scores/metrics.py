"""How near a picture is to the truth: PSNR, SSIM, LPIPS where its weights are, and depth error."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import models.torchvision_compat  # noqa: F401  mends torchvision before torchmetrics imports it
from models.perceptual import DOWNLOADS, Backbone, cached_backbone, load_lpips

PSNR_CAP_DB = 100.0
"""Identical images have no finite PSNR; they count as this much, so that means stay finite."""


def psnr(
    frames: Float[Tensor, "*batch 3 h w"], truth: Float[Tensor, "*batch 3 h w"]
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio [dB] of each image, values in [0, 1], at most `PSNR_CAP_DB`."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    flat, reference = _images(frames), _images(truth)
    values = peak_signal_noise_ratio(
        flat, reference, data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return values.clamp(max=PSNR_CAP_DB).reshape(frames.shape[:-3])


def ssim(
    frames: Float[Tensor, "*batch 3 h w"], truth: Float[Tensor, "*batch 3 h w"]
) -> Float[Tensor, "*batch"]:
    """Structural similarity of each image, values in [0, 1]; window of 11 px, sigma 1.5 px."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        _images(frames), _images(truth), data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.reshape(frames.shape[:-3])


def lpips(
    frames: Float[Tensor, "*batch 3 h w"],
    truth: Float[Tensor, "*batch 3 h w"],
    backbone: Backbone = "alex",
    weights: Path | None = None,
) -> Float[Tensor, "*batch"] | None:
    """Learned perceptual distance of each image, or None where the backbone's weights are absent.

    weights: the ImageNet weights of the backbone as torchvision publishes them; None looks in
        torch's own cache and never downloads. `lpips_hint` says how to get them.
    """
    path = weights or cached_backbone(backbone)
    if path is None:
        return None
    network = _lpips_network(backbone, path)
    with torch.no_grad():
        values = network(_images(frames).float(), _images(truth).float(), normalize=True)
    return values.reshape(frames.shape[:-3])


def lpips_hint(backbone: Backbone = "alex") -> str:
    """One sentence that says how to make LPIPS available."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return f"LPIPS is not available: put {DOWNLOADS[backbone]} into {folder}"


def depth_error(
    depth: Float[Tensor, "*shape"],
    truth: Float[Tensor, "*shape"],
    valid: Bool[Tensor, "*shape"] | None = None,
) -> float | None:
    """Median of |depth - truth| / truth over the `valid` pixels whose truth is known (> 0).

    None where there is no such pixel. Both depths in the same unit.
    """
    known = (truth > 0) & torch.isfinite(truth) & torch.isfinite(depth)
    if valid is not None:
        known &= valid
    if not known.any():
        return None
    return float(((depth[known] - truth[known]).abs() / truth[known]).median())


@functools.cache
def _lpips_network(backbone: Backbone, weights: Path) -> torch.nn.Module:
    return load_lpips(backbone, weights)


def _images(frames: Tensor) -> Tensor:
    """The images of any batch shape as `[n 3 h w]`."""
    return frames.reshape(-1, *frames.shape[-3:])
