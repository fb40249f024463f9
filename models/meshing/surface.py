"""From values on a grid to a clean triangle mesh: iso-surface, small parts, decimation, normals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from configs.errors import UserError
from models.meshing.grid import Grid


@dataclass(frozen=True)
class Mesh:
    """Triangles in world axes (OpenCV).

    vertices: scene units. faces: vertices of each, counter-clockwise as seen from outside.
    """

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]

    @property
    def num_faces(self) -> int:
        return len(self.faces)

    def corners(self) -> Float[np.ndarray, "face 3 3"]:
        return self.vertices[self.faces]

    def area_vectors(self) -> Float[np.ndarray, "face 3"]:
        """Outward normals of the faces as long as their areas."""
        a, b, c = self.corners().swapaxes(0, 1)
        return 0.5 * np.cross(b - a, c - a)

    def normals(self) -> Float[np.ndarray, "vertex 3"]:
        """Unit vertex normals: of the faces around each, weighted by their areas."""
        total = np.zeros_like(self.vertices)
        areas = self.area_vectors()
        for corner in range(3):
            np.add.at(total, self.faces[:, corner], areas)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)

    def keep_faces(self, keep: Bool[np.ndarray, " face"]) -> Mesh:
        """The mesh with some of its faces, and the vertices that they need."""
        faces = self.faces[keep]
        used, renumbered = np.unique(faces, return_inverse=True)
        return Mesh(self.vertices[used], renumbered.reshape(-1, 3))


def iso_surface(
    values: Float[np.ndarray, "x y z"],
    level: float,
    *,
    known: Bool[np.ndarray, "x y z"] | None = None,
    inside_is_above: bool,
) -> Mesh:
    """Where the values cross `level`, in node indices, facing away from the inside (marching cubes, Lewiner 2003).

    known: cells with a corner that is not known have no surface. Raises UserError where nothing crosses.
    """
    from skimage.measure import marching_cubes

    cells = None
    crosses = float(values.min()) < level < float(values.max())
    if known is not None:
        cells = np.zeros(values.shape, bool)
        whole = cells[1:, 1:, 1:]
        whole[:] = True
        for i, j, k in np.ndindex(2, 2, 2):
            x, y, z = (side - 1 for side in values.shape)
            whole &= known[i : i + x, j : j + y, k : k + z]
        crosses &= bool(cells.any())
    found = None
    if crosses:
        try:
            found = marching_cubes(
                values,
                level,
                mask=cells,
                gradient_direction="ascent" if inside_is_above else "descent",
            )
        except RuntimeError:  # it found no surface
            found = None
    if found is None:
        raise UserError(
            f"there is no surface: no value on the grid crosses {level:g} (they are between"
            f" {values.min():.3g} and {values.max():.3g})"
        )
    return cleaned(Mesh(found[0].astype(np.float64), found[1].astype(np.int64)))


def cleaned(mesh: Mesh) -> Mesh:
    """The mesh with vertices at one place joined, without degenerate faces and equal ones.

    Of faces with the same vertices one stays; two that face opposite ways are a fold, and both go.
    """
    places, renumbered = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = renumbered.reshape(-1)[mesh.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # Turned so that the smallest number comes first, a face's two windings differ in the order of the others.
    faces = np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    winding = np.where(faces[:, 1] < faces[:, 2], 1, -1)
    _, first, group = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True
    )
    total = np.bincount(group.reshape(-1), winding, len(first)).astype(np.int64)
    keep = np.sort(first[total != 0])
    faces = faces[keep]
    flip = winding[keep] * np.sign(total[group.reshape(-1)[keep]]) < 0
    faces[flip] = faces[flip][:, [0, 2, 1]]
    return Mesh(places, faces).keep_faces(np.ones(len(faces), bool))


def parts(mesh: Mesh) -> tuple[int, Int[np.ndarray, " face"]]:
    """How many connected parts there are, and which one each face belongs to."""
    if not mesh.num_faces:
        return 0, np.empty(0, np.int64)
    a, b, c = mesh.faces.T
    ends = (np.concatenate([a, b]), np.concatenate([b, c]))
    links = coo_matrix((np.ones(len(ends[0]), bool), ends), (len(mesh.vertices),) * 2)
    count, of_vertex = connected_components(links, directed=False)
    return int(count), of_vertex[mesh.faces[:, 0]].astype(np.int64)


def without_small_parts(mesh: Mesh, min_share: float) -> Mesh:
    """The mesh without connected parts of less than `min_share` of the largest one's area."""
    count, part = parts(mesh)
    areas = np.bincount(part, np.linalg.norm(mesh.area_vectors(), axis=1), count)
    return mesh.keep_faces((areas >= min_share * areas.max())[part])


def open_edges(mesh: Mesh) -> Int[np.ndarray, " edge"]:
    """Edges with a face on one side only: 3 * face + corner that they start at. A closed mesh has none."""
    ends = np.stack([mesh.faces, np.roll(mesh.faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    _, first, count = np.unique(
        np.sort(ends, axis=1), axis=0, return_index=True, return_counts=True
    )
    return first[count == 1]


def with_neighbours(
    mesh: Mesh, chosen: Bool[np.ndarray, " face"], rings: int
) -> Bool[np.ndarray, " face"]:
    """The chosen faces, and all that are up to `rings` faces away from one."""
    for _ in range(rings):
        near = np.zeros(len(mesh.vertices), bool)
        near[mesh.faces[chosen]] = True
        chosen = near[mesh.faces].any(axis=1)
    return chosen


def smoothed(mesh: Mesh, rounds: int, forth: float = 0.5, back: float = -0.53) -> Mesh:
    """The mesh with vertices moved toward their neighbours' mean and back again, without shrinking (Taubin 1995)."""
    ends = np.concatenate([mesh.faces, np.roll(mesh.faces, -1, axis=1)], axis=1).reshape(-1, 2, 3)
    a, b = ends[:, 0].reshape(-1), ends[:, 1].reshape(-1)
    rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), (len(mesh.vertices),) * 2).tocsr()
    links.data[:] = 1
    degrees = np.maximum(np.asarray(links.sum(axis=1)), 1)
    vertices = mesh.vertices
    for _ in range(rounds):
        for step in (forth, back):
            vertices = vertices + step * (links @ vertices / degrees - vertices)
    return Mesh(vertices, mesh.faces)


def decimated(mesh: Mesh, num_faces: int) -> Mesh:
    """The mesh with about `num_faces` faces at most, by edge collapse with quadric errors (Garland, Heckbert 1997)."""
    if mesh.num_faces <= num_faces:
        return mesh
    from fast_simplification import simplify

    # Its errors are absolute numbers: lengths near 1 suit them.
    middle, size = mesh.vertices.mean(axis=0), float(np.ptp(mesh.vertices, axis=0).max())
    vertices, faces = simplify(
        ((mesh.vertices - middle) / size).astype(np.float32),
        mesh.faces.astype(np.int32),
        target_count=num_faces,
    )
    return cleaned(Mesh(vertices.astype(np.float64) * size + middle, faces.astype(np.int64)))


def in_world(mesh: Mesh, grid: Grid) -> Mesh:
    """A mesh in node indices, in the world."""
    return Mesh(grid.to_world(grid.lower + grid.cell * mesh.vertices), mesh.faces)
