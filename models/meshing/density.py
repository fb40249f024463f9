"""The density of a scene of Gaussians on a grid: sum of opacity * exp(-squared distance in sigmas / 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from models.gaussians import Gaussians, quat_to_matrix
from models.meshing.density_cpu import ROW, add_density
from models.meshing.grid import Grid
from models.rendering.threads import run_pieces

CUT_OFF = 1e-4
"""A Gaussian does not count where its own density is below this: a sum is too low by this for each, at most."""
GROUP = 4
"""Blocks are done in cubes of so many a side; each cube looks only at the Gaussians that reach it."""


def density_on_grid(
    gaussians: Gaussians, grid: Grid, on_progress: Callable[[int, int], None] | None = None
) -> Float[np.ndarray, "x y z"]:
    """The density at every node, float32; DreamGaussian, eq. 4 (arXiv 2309.16653).

    gaussians: unbatched, anywhere. on_progress: takes the cubes of blocks done, and in all.
    """
    rows = density_rows(gaussians)
    low, high = rows[:, :3] - rows[:, 13:16], rows[:, :3] + rows[:, 13:16]
    values = np.zeros(grid.shape, np.float32)
    shape = np.array(grid.blocks_shape)
    corners = np.stack(np.unravel_index(np.arange(np.prod(-(-shape // GROUP))), -(-shape // GROUP)))
    corners = corners.T * GROUP
    for done, corner in enumerate(corners):
        blocks = _cube(corner, shape)
        nodes = grid.to_world(grid.block_nodes(blocks))
        near = nodes.reshape(-1, 3).min(axis=0) <= high
        near &= nodes.reshape(-1, 3).max(axis=0) >= low
        reaching = rows[near.all(axis=1)]
        if len(reaching):
            density = np.empty(nodes.shape[:2])
            run_pieces(add_density, len(blocks), nodes, reaching, density)
            grid.store(values, blocks, density.astype(np.float32))
        if on_progress is not None:
            on_progress(done + 1, len(corners))
    return values


def thickened(gaussians: Gaussians, grid: Grid, cells: float) -> Gaussians:
    """The scene with every Gaussian blurred by so many cells at its place, so that no sheet slips between nodes."""
    places = grid.to_grid(gaussians.means.double().numpy(force=True))
    blur = torch.from_numpy(cells * grid.cell_sizes(places)).to(gaussians.scales)
    return replace(gaussians, scales=(gaussians.scales.square() + blur.square()[:, None]).sqrt())


def fill_enclosed(
    density: Float[np.ndarray, "x y z"], level: float, free: Int[np.ndarray, "n 3"]
) -> None:
    """Raises the density, in place, to twice `level` in hollows: where a body is only a shell.

    A hollow is below `level` and connected neither to the border of the grid nor to one of the nodes `free`.
    """
    from scipy.ndimage import label

    empty, count = label(density < level)
    open_ = np.zeros(count + 1, bool)
    open_[0] = True
    for axis in range(3):
        for side in (0, -1):
            open_[np.unique(empty.take(side, axis=axis))] = True
    inside = ((free >= 0) & (free < density.shape)).all(axis=1)
    open_[empty[tuple(free[inside].T)]] = True
    density[~open_[empty]] = 2 * level


def density_rows(gaussians: Gaussians) -> Float[np.ndarray, "n row"]:
    """The rows that `density_cpu.py` describes, of all Gaussians that are opaque enough to count."""
    scene = gaussians.detach().to("cpu").to(torch.float64)
    scene = scene.select(scene.opacities > CUT_OFF)
    rotation = quat_to_matrix(scene.quats)
    rows = np.empty((scene.num_gaussians, ROW))
    rows[:, :3] = scene.means.numpy()
    rows[:, 3:12] = (rotation.mT / scene.scales[..., None]).flatten(1).numpy()
    rows[:, 12] = scene.opacities.numpy()
    square = 2 * (scene.opacities / CUT_OFF).log()
    deviations = (rotation.square() * scene.scales.square()[:, None]).sum(-1).sqrt()
    rows[:, 13:16] = (square.sqrt()[:, None] * deviations).numpy()
    rows[:, 16] = square.numpy()
    return rows


def _cube(corner: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Numbers of the blocks in a cube of `GROUP` a side, cut at the grid's end."""
    sides = [
        range(start, min(start + GROUP, end)) for start, end in zip(corner, shape, strict=True)
    ]
    return np.ravel_multi_index(np.meshgrid(*sides, indexing="ij"), tuple(shape)).reshape(-1)
