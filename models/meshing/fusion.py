"""Depth maps fused to one signed distance on a grid (Curless and Levoy 1996): mean over views, near surfaces alone.

Where no view sees anything there is no surface either: what comes of it is open where nothing was seen. Of a body
that is seen from all around, what no view sees is inside: it comes out closed, and has deep hollows filled.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation

from data.cameras import Cameras
from models.meshing.fusion_cpu import fuse_depth
from models.meshing.grid import Grid
from models.meshing.surface_views import SurfaceViews
from models.rendering.threads import run_pieces

MAX_REACH_SHARE = 0.25
"""Far out, where cells are large, distances still reach no farther than this share of the way from a camera."""
BATCH = 512
"""Blocks at once, to bound memory."""


def fuse_views(
    views: SurfaceViews,
    grid: Grid,
    reach_cells: float,
    reach_share: float,
    *,
    closed: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Signed distances at every node, in shares of the reach (positive where it is free), and where they are known.

    reach_cells, reach_share: how far from a surface a distance is told: in cells, and as a share of the distance
    from the nearest camera, whichever is more. The second should cover how far views disagree about depth.
    closed: all views show all of a body. Near surfaces, what none of them sees counts as inside where it lies in
    all images, and else as free.
    """
    values = np.ones(grid.shape, np.float32)
    known = np.zeros(grid.shape, bool)
    blocks = _blocks_near(views, grid)
    cameras = _camera_rows(views.cameras)
    centres = views.cameras.positions.double().numpy()
    depth, facing = (np.ascontiguousarray(t.numpy()) for t in (views.depth, views.facing()))
    for start in range(0, len(blocks), BATCH):
        batch = blocks[start : start + BATCH]
        places = grid.block_nodes(batch)
        nodes = grid.to_world(places)
        middle = nodes.mean(axis=1)
        away = np.linalg.norm(middle[:, None] - centres, axis=-1).min(axis=1)
        reaches = np.maximum(reach_cells * grid.cell_sizes(places), reach_share * away[:, None])
        reaches = np.minimum(reaches, MAX_REACH_SHARE * away[:, None])
        distance, weight = np.empty(nodes.shape[:2]), np.empty(nodes.shape[:2])
        run_pieces(fuse_depth, len(batch), nodes, reaches, depth, facing, cameras, distance, weight)
        if closed:
            unseen = weight == 0
            distance[unseen] = np.where(_in_all_images(nodes[unseen], views.cameras), -1, 1)
        grid.store(values, batch, distance.astype(np.float32))
        grid.store(known, batch, (weight > 0) | closed)
        if on_progress is not None:
            on_progress(min(start + BATCH, len(blocks)), len(blocks))
    return values, known


def _blocks_near(views: SurfaceViews, grid: Grid) -> np.ndarray:
    """Numbers of the blocks with a point of a surface in them, and of their neighbours."""
    near = np.zeros(grid.blocks_shape, bool)
    found = grid.blocks_of(views.points().double().numpy())
    near.reshape(-1)[found[found >= 0]] = True
    return np.flatnonzero(binary_dilation(near, np.ones((3, 3, 3), bool)))


def _in_all_images(points: Float[np.ndarray, "n 3"], cameras: Cameras) -> Bool[np.ndarray, " n"]:
    pixels, depth = cameras.to(torch.float64).project(torch.from_numpy(points))
    size = pixels.new_tensor([cameras.width, cameras.height])
    inside = ((pixels >= 0) & (pixels <= size)).all(dim=-1) & (depth > 0)
    return inside.all(dim=0).numpy()


def _camera_rows(cameras: Cameras) -> Float[np.ndarray, "v 16"]:
    transform, matrix = cameras.world_to_camera.double(), cameras.intrinsics.double()
    rows = np.empty((cameras.num_views, 16))
    rows[:, :9] = transform[:, :3, :3].flatten(1).numpy()
    rows[:, 9:12] = transform[:, :3, 3].numpy()
    rows[:, 12:14] = matrix[:, [0, 1], [0, 1]].numpy()
    rows[:, 14:] = matrix[:, :2, 2].numpy()
    return rows
