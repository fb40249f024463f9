"""Which face of a mesh each pixel shows: from cameras, and on the texture's plane. In numba, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from data.cameras import Cameras
from models.meshing.rasteriser_cpu import draw_triangles
from models.meshing.surface import Mesh
from models.rendering.threads import run_pieces

NEAR = 1e-3
"""Nothing nearer than this is drawn [scene units]."""
SLACK = 1e-9
"""Pixels so little outside of a triangle belong to it, so that rounding leaves no cracks."""


@dataclass(frozen=True)
class Fragments:
    """What pixels show.

    face: -1 where there is none. weights: of the face's first two corners (the third has the rest), perspective
    corrected. depth: z-depth, infinite where there is none.
    """

    face: Int[np.ndarray, "v h w"]
    weights: Float[np.ndarray, "v h w 2"]
    depth: Float[np.ndarray, "v h w"]

    def interpolate(
        self, faces: Int[np.ndarray, "face 3"], values: Float[np.ndarray, "vertex c"]
    ) -> Float[np.ndarray, "n c"]:
        """Vertex values at all pixels that show a face, in row order."""
        shown = self.face >= 0
        corners = faces[self.face[shown]]
        p, q = self.weights[shown][:, :1], self.weights[shown][:, 1:]
        a, b, c = (values[corners[:, i]] for i in range(3))
        return p * a + q * b + (1 - p - q) * c


def draw(mesh: Mesh, cameras: Cameras) -> Fragments:
    """The nearest face at every pixel centre of unbatched cameras; both sides of a face show."""
    matrices = cameras.intrinsics.double() @ cameras.world_to_camera.double()[:, :3]
    ends = np.concatenate([mesh.vertices, np.ones((len(mesh.vertices), 1))], axis=1)
    corners = ends @ matrices.numpy(force=True).swapaxes(1, 2)
    return _draw(corners, mesh.faces, cameras.height, cameras.width)


def draw_atlas(
    uvs: Float[np.ndarray, "vertex 2"], faces: Int[np.ndarray, "face 3"], size: int
) -> Fragments:
    """The face at every texel centre of a square texture; uvs in [0, 1] from its top left corner."""
    corners = np.concatenate([uvs * size, np.ones((len(uvs), 1))], axis=1)
    return _draw(corners[None], faces, size, size)


def _draw(
    corners: NDArray[np.float64], faces: NDArray[np.int64], height: int, width: int
) -> Fragments:
    shape = (len(corners), height, width)
    face, depth = np.empty(shape, np.int32), np.empty(shape, np.float32)
    weights = np.zeros((*shape, 2), np.float32)
    faces = np.ascontiguousarray(faces)
    run_pieces(draw_triangles, len(corners), corners, faces, NEAR, SLACK, face, weights, depth)
    return Fragments(face, weights, depth)
