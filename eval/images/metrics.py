"""How near a picture is to the truth: PSNR, SSIM, MS-SSIM, LPIPS where its weights are, and depth error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import models.torchvision_compat  # noqa: F401  mends torchvision before torchmetrics imports it
from configs.errors import UserError
from models.perceptual import Backbone, cached_backbone, load_lpips
from models.published_weights import LPIPS_BACKBONES

PSNR_CAP_DB = 100.0
"""Identical images have no finite PSNR; they count as this much, so that means stay finite."""
SSIM_WINDOW = 11
"""Pixels; a smaller image has no place for one whole window."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first (Wang et al. 2003)."""
PIXELS_AT_ONCE = 1_000_000
"""Images are measured in parts of so many pixels: features of a whole clip at 480x720 take many gigabytes."""


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

    def similarity(flat: Tensor, reference: Tensor) -> Tensor:
        values = structural_similarity_index_measure(
            flat, reference, data_range=1.0, reduction="none"
        )
        assert isinstance(values, Tensor)
        return values

    return _in_parts(similarity, frames, truth)


def ms_ssim_scales(height: int, width: int) -> int:
    """How many scales, 0 to 5, MS-SSIM can have for images of this size.

    The 11 px window has to fit into the coarsest one, which is halved once less than there are scales;
    torchmetrics asks for a little more at four (99 px). Five, as published, take 176 px.
    """
    side = min(height, width)
    return max(
        (
            scales
            for scales in range(1, len(MS_SSIM_WEIGHTS) + 1)
            if side // 2 ** (scales - 1) >= SSIM_WINDOW
            and side // max(1, scales - 1) ** 2 >= SSIM_WINDOW
        ),
        default=0,
    )


def ms_ssim(
    frames: Float[Tensor, "*batch 3 h w"],
    truth: Float[Tensor, "*batch 3 h w"],
    scales: int = len(MS_SSIM_WEIGHTS),
) -> Float[Tensor, "*batch"]:
    """Multi-scale structural similarity of each image, values in [0, 1] (Wang et al. 2003).

    scales: 1 to 5, finest first, their weights brought to a sum of 1. With fewer than five it is another
        measure than the published one, and is to be named as such. Raises UserError where the images are too
        small for it.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    height, width = frames.shape[-2:]
    if scales > (possible := ms_ssim_scales(height, width)):
        raise UserError(
            f"images of {height}x{width} are too small for MS-SSIM of {scales} scales; they have room for"
            f" {possible}"
        )
    used = MS_SSIM_WEIGHTS[:scales]
    weights = used if scales == len(MS_SSIM_WEIGHTS) else tuple(w / sum(used) for w in used)

    def similarity(flat: Tensor, reference: Tensor) -> Tensor:
        return multiscale_structural_similarity_index_measure(
            flat, reference, data_range=1.0, reduction="none", betas=weights
        )

    return _in_parts(similarity, frames, truth)


def lpips(
    frames: Float[Tensor, "*batch 3 h w"],
    truth: Float[Tensor, "*batch 3 h w"],
    backbone: Backbone = "alex",
    weights: Path | None = None,
) -> Float[Tensor, "*batch"] | None:
    """Learned perceptual distance of each image, or None where the backbone's weights are absent.

    The images go in at their own size, which is to be at least `models.perceptual.SMALLEST_SIDE`.
    weights: the ImageNet weights of the backbone as torchvision publishes them; None looks in
        torch's own cache and never downloads. `lpips_hint` says how to get them.
    """
    path = weights or cached_backbone(backbone)
    if path is None:
        return None
    network = lpips_network(backbone, path).to(frames.device)

    def distance(flat: Tensor, reference: Tensor) -> Tensor:
        return network(flat.float(), reference.float(), normalize=True).flatten()

    with torch.no_grad(), full_precision():
        return _in_parts(distance, frames, truth)


@functools.cache
def lpips_network(backbone: Backbone, weights: Path) -> torch.nn.Module:
    """The network of `lpips`, loaded once; raises UserError where the file does not hold its backbone."""
    return load_lpips(backbone, weights)


def lpips_hint(backbone: Backbone = "alex") -> str:
    """One sentence that says how to make LPIPS available."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return f"LPIPS is not available: put {LPIPS_BACKBONES[backbone]} into {folder}"


def full_precision() -> AbstractContextManager[None]:
    """A context in which convolutions on CUDA are repeatable, and without TF32's ten bits of mantissa."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


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


def _in_parts(measure: Callable[[Tensor, Tensor], Tensor], frames: Tensor, truth: Tensor) -> Tensor:
    """One number an image, measured over `PIXELS_AT_ONCE`, in the batch shape of `frames`."""
    step = max(1, PIXELS_AT_ONCE // (frames.shape[-2] * frames.shape[-1]))
    parts = zip(_images(frames).split(step), _images(truth).split(step), strict=True)
    return torch.cat([measure(a, b) for a, b in parts]).reshape(frames.shape[:-3])


def _images(frames: Tensor) -> Tensor:
    """The images of any batch shape as `[n 3 h w]`."""
    return frames.reshape(-1, *frames.shape[-3:])
