"""Screen traces of the CPU rasteriser, read from what its passes leave behind. Layout and legend: cpu_rows.py."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from models.rendering.cpu_rows import (
    FACTOR_SCALE,
    MOMENT_U,
    MOMENT_V,
    ROW,
    SPLAT_A,
    SPLAT_B,
    SPLAT_C,
    SPLAT_EXTENT_X,
    SPLAT_EXTENT_Y,
    SPLAT_GAUSSIAN,
    SPLAT_SPAN,
)


def splat_rows(
    num_visible: NDArray[np.int32], num_views: int, padded: int, chunk_size: int
) -> NDArray[np.int64]:
    """The rows of all drawn splats in the order of their pairs: by chunk, then by view."""
    counts = num_visible.astype(np.int64)
    chunks, views = np.divmod(np.arange(len(counts)), num_views)
    firsts = views * padded + chunks * chunk_size
    starts = np.cumsum(counts) - counts
    return np.repeat(firsts - starts, counts) + np.arange(counts.sum())


def trace_radii(
    splats: NDArray[np.float32],
    rows: NDArray[np.int64],
    num_views: int,
    padded: int,
    num_gaussians: int,
) -> Float[Tensor, "v n"]:
    """Half the longer side of each drawn splat's box [px], 0 elsewhere."""
    table = splats.reshape(-1, ROW)
    extents = table[rows][:, [SPLAT_EXTENT_X, SPLAT_EXTENT_Y]].max(axis=1)
    radii = torch.zeros(num_views, num_gaussians)
    radii[_places(splats, rows, padded)] = torch.from_numpy(extents)
    return radii


def trace_gradients(
    splats: NDArray[np.float32],
    rows: NDArray[np.int64],
    moments: NDArray[np.float32],
    touched: NDArray[np.uint8],
    num_views: int,
    padded: int,
    num_gaussians: int,
) -> Float[Tensor, "v n 2"]:
    """The loss' gradients by the splats' centres [1/px]: L sum(L^T d), as in `splat_gradients`."""
    table = splats.reshape(-1, ROW)[rows]
    span = splats.view(np.int32).reshape(-1, ROW)[rows, SPLAT_SPAN]
    num_pairs = (span & 0xFFFF) * (span >> 16)
    owner = np.repeat(np.arange(len(rows)), num_pairs)
    by_pair = moments.reshape(-1, ROW)[:, [MOMENT_U, MOMENT_V]]
    some = touched[: len(owner)].astype(bool)
    sum_u, sum_v = (
        np.bincount(owner[some], by_pair[: len(owner)][some, k], minlength=len(rows))
        for k in (0, 1)
    )
    a, b, c = (table[:, column] for column in (SPLAT_A, SPLAT_B, SPLAT_C))
    scale = 1 / FACTOR_SCALE**2
    centres = np.stack([a * sum_u, b * sum_u + c * sum_v], axis=1) * scale
    gradients = torch.zeros(num_views, num_gaussians, 2)
    gradients[_places(splats, rows, padded)] = torch.from_numpy(centres).float()
    return gradients


def _places(
    splats: NDArray[np.float32], rows: NDArray[np.int64], padded: int
) -> tuple[Tensor, Tensor]:
    """View and Gaussian of each row."""
    members = splats.view(np.int32).reshape(-1, ROW)[rows, SPLAT_GAUSSIAN].astype(np.int64)
    return torch.from_numpy(rows // padded), torch.from_numpy(members)
