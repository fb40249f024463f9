"""The grid that a surface is found on: even, or ever coarser with the distance from where a scene is seen from.

A node has whole-number indices, grid coordinates (lower + cell * index), and a place in the world. For an object
grid coordinates are world coordinates. A scene that is seen from inside has near things and a far background: its
grid lies evenly in contracted space (mip-NeRF 360, eq. 10), where everything beyond `radius` from `centre` is drawn
in between radius 1 and 2, in proportion to inverse distance.

Nodes come in blocks of `BLOCK`^3, the unit of work of everything that fills a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from configs.errors import UserError

BLOCK = 8
"""Nodes along a block's side."""
BYTES_PER_NODE = 14
"""Peak memory of filling a grid and taking its surface: values, masks, and marching cubes' own copies."""
BYTES_BESIDE = 300_000_000
"""What is needed whatever the grid's size: one batch of blocks, and the surface itself."""
MIN_NODES = 16
FARTHEST = 1e-4
"""Contracted places count as at least so far from the ball's surface, which is infinitely far away."""


@dataclass(frozen=True)
class Contraction:
    """A one-to-one map between the world and a ball of radius 2.

    Within `radius` [scene units] of `centre` it is a mere scaling, by 1 / radius.
    """

    centre: Float[np.ndarray, " 3"]
    radius: float

    def inward(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Contracted places of points in the world."""
        scaled = (points - self.centre) / self.radius
        length = np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1.0)
        return scaled * (2 - 1 / length) / length

    def outward(self, places: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Points in the world of contracted places; none farther than radius / `FARTHEST`."""
        length = np.maximum(np.linalg.norm(places, axis=-1, keepdims=True), 1.0)
        return self.centre + self.radius * places / (length * np.maximum(2 - length, FARTHEST))

    def stretch(self, places: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
        """By how much lengths grow outward at most, which is along the radius [scene units]."""
        rest = np.clip(2 - np.linalg.norm(places, axis=-1), FARTHEST, 1.0)
        return self.radius / rest**2


@dataclass(frozen=True)
class Grid:
    """Where the nodes of a grid are.

    lower: grid coordinates of node (0, 0, 0). cell: spacing, in grid coordinates. shape: nodes along x, y and z,
    multiples of `BLOCK`. box: corners of what the grid is for, in grid coordinates; it reaches a little beyond.
    contraction: None where grid coordinates are the world's.
    """

    lower: Float[np.ndarray, " 3"]
    cell: float
    shape: tuple[int, int, int]
    box: tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]
    contraction: Contraction | None = None

    @property
    def num_nodes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def blocks_shape(self) -> tuple[int, int, int]:
        x, y, z = (side // BLOCK for side in self.shape)
        return x, y, z

    @property
    def num_blocks(self) -> int:
        return self.num_nodes // BLOCK**3

    def to_world(self, places: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """World points of grid coordinates."""
        return places if self.contraction is None else self.contraction.outward(places)

    def to_grid(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Grid coordinates of world points."""
        return points if self.contraction is None else self.contraction.inward(points)

    def in_box(self, places: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
        """Whether grid coordinates are in the box that the grid is for, but for rounding."""
        slack = 1e-6 * self.cell
        lower, upper = self.box
        return np.asarray(((places >= lower - slack) & (places <= upper + slack)).all(axis=-1))

    def block_nodes(self, blocks: Int[np.ndarray, " b"]) -> Float[np.ndarray, "b node 3"]:
        """Grid coordinates of the nodes of blocks, in C order; blocks are numbered in C order too."""
        corners = np.stack(np.unravel_index(blocks, self.blocks_shape), axis=-1) * BLOCK
        inside = np.stack(np.unravel_index(np.arange(BLOCK**3), (BLOCK,) * 3), axis=-1)
        return self.lower + self.cell * (corners[:, None] + inside)

    def store(
        self,
        values: Shaped[np.ndarray, "x y z"],
        blocks: Int[np.ndarray, " b"],
        content: Shaped[np.ndarray, "b node"],
    ) -> None:
        """Puts what was found for blocks into their places in an array over the whole grid."""
        x, y, z = self.blocks_shape
        by_block = values.reshape(x, BLOCK, y, BLOCK, z, BLOCK).transpose(0, 2, 4, 1, 3, 5)
        i, j, k = np.unravel_index(blocks, self.blocks_shape)
        by_block[i, j, k] = content.reshape(-1, BLOCK, BLOCK, BLOCK)

    def blocks_of(self, points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
        """The block that each world point lies in; -1 outside the grid."""
        index = np.floor((self.to_grid(points) - self.lower) / (self.cell * BLOCK) + 0.5 / BLOCK)
        inside = ((index >= 0) & (index < self.blocks_shape)).all(axis=-1)
        flat = np.ravel_multi_index(
            tuple(np.where(inside[:, None], index, 0).astype(np.int64).T), self.blocks_shape
        )
        return np.where(inside, flat, -1)

    def cell_sizes(self, places: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
        """The largest extent of a cell at grid coordinates [scene units]."""
        if self.contraction is None:
            return np.full(places.shape[:-1], self.cell)
        return self.cell * self.contraction.stretch(places)


def make_grid(
    lower: Float[np.ndarray, " 3"],
    upper: Float[np.ndarray, " 3"],
    resolution: int,
    contraction: Contraction | None = None,
) -> Grid:
    """A grid over a box in grid coordinates with `resolution` nodes along its longest side.

    Raises UserError for a box without extent.
    """
    extent = np.asarray(upper - lower, dtype=np.float64)
    if not (np.isfinite(extent).all() and (extent > 0).all()):
        raise UserError(
            f"the bounds of the grid go from {_numbers(lower)} to {_numbers(upper)}; expected finite numbers,"
            " the first three below the last three"
        )
    cell = float(extent.max()) / (resolution - 1)
    nodes = np.maximum(np.ceil(extent / cell - 1e-9) + 1, 2)
    x, y, z = (int(-(-side // BLOCK)) * BLOCK for side in nodes)
    # What rounding up to whole blocks adds goes to both sides alike.
    spare = (np.array([x, y, z]) - 1) * cell - extent
    start = np.asarray(lower, dtype=np.float64) - spare / 2
    return Grid(start, cell, (x, y, z), (lower, upper), contraction)


def check_memory(grid: Grid, bytes_free: int) -> None:
    """Raises UserError, with the resolution that would fit, where a grid takes more than `bytes_free`."""
    needed = BYTES_BESIDE + BYTES_PER_NODE * grid.num_nodes
    if needed <= bytes_free:
        return
    share = max(0.0, (bytes_free - BYTES_BESIDE) / (BYTES_PER_NODE * grid.num_nodes))
    # A little less than fits, since sides are rounded up to whole blocks.
    fits = int(max(grid.shape) * share ** (1 / 3)) // BLOCK * BLOCK - BLOCK
    x, y, z = grid.shape
    cure = (
        f"--grid {fits} would fit" if fits >= MIN_NODES else "no grid fits; free some memory first"
    )
    raise UserError(
        f"a grid of {x}x{y}x{z} nodes needs {needed / 2**30:.1f} GiB of memory, and {bytes_free / 2**30:.1f} GiB"
        f" are free; {cure}"
    )


def _numbers(values: Float[np.ndarray, " 3"]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
