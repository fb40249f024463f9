"""A mesh's surface laid out on the plane of a square texture (xatlas)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from configs.errors import UserError
from models.meshing.surface import Mesh

PADDING = 2
"""Texels between charts: bilinear look-ups on one never touch another."""


@dataclass(frozen=True)
class Unwrapped:
    """A mesh whose vertices have places on a texture; vertices on seams are there several times.

    uvs: in [0, 1], from the texture's top left corner. source: the vertex of `Mesh` that each one was.
    """

    mesh: Mesh
    uvs: Float[np.ndarray, "vertex 2"]
    source: Int[np.ndarray, " vertex"]
    normals: Float[np.ndarray, "vertex 3"]


def unwrap(mesh: Mesh, texture_size: int) -> Unwrapped:
    """Charts of a mesh, packed into a texture of about `texture_size` texels a side.

    Raises UserError where xatlas is not installed.
    """
    try:
        import xatlas
    except ImportError as error:
        raise UserError(
            f"unwrapping a mesh needs xatlas, which does not load ({error}): pip install xatlas"
        ) from error
    # It wants lengths near 1, since it takes very small triangles for degenerate.
    middle, size = mesh.vertices.mean(axis=0), float(np.ptp(mesh.vertices, axis=0).max())
    atlas = xatlas.Atlas()
    normals = mesh.normals()
    atlas.add_mesh(
        ((mesh.vertices - middle) / size).astype(np.float32),
        mesh.faces.astype(np.uint32),
        normals.astype(np.float32),
    )
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = texture_size, PADDING, True
    atlas.generate(pack_options=packing)
    source, faces, uvs = atlas[0]
    # xatlas scales uvs to the atlas that it needed, which is not always square.
    sides = np.array([atlas.width, atlas.height], np.float64)
    source = source.astype(np.int64)
    return Unwrapped(
        Mesh(mesh.vertices[source], faces.astype(np.int64)),
        uvs.astype(np.float64) * sides / sides.max(),
        source,
        normals[source],
    )
