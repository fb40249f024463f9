"""From a scene of Gaussians to a mesh: grid, surface, texture. Each step is its own module; this is their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from configs.errors import UserError
from configs.loader import Config
from models.gaussians import Gaussians
from models.meshing.atlas_fill import fill_texture
from models.meshing.baking import bake_texture
from models.meshing.density import density_on_grid, fill_enclosed, thickened
from models.meshing.files import TexturedMesh
from models.meshing.fusion import fuse_views
from models.meshing.grid import Contraction, Grid, check_memory, make_grid
from models.meshing.rasteriser import draw
from models.meshing.surface import (
    Mesh,
    decimated,
    in_world,
    iso_surface,
    smoothed,
    with_neighbours,
    without_small_parts,
)
from models.meshing.surface_views import SurfaceViews
from models.meshing.texture_fit import refine_texture, texture_views
from models.meshing.unwrap import unwrap

Progress = Callable[[str, int, int], None]
"""Takes a stage, its steps done, and in all."""

EVEN_RATIO = 3.0
"""Up to this ratio between the farthest and the nearest of what the views show, the grid is even."""
EVEN_SHARE = 0.2
"""A grid that is not even is so for this share of what the views show, around the middle of the cameras."""
GRID_MARGIN = 0.03
"""The grid reaches so far beyond what the views show, as a share of its longest side."""
SEEN_RINGS = 3
"""Faces count as seen up to so many faces away from one that is: small ones fall between pixels."""
BYTES_PER_GAUSSIAN = 300
"""What the density needs beside its grid."""


class MeshConfig(Config):
    """How a scene becomes a mesh."""

    method: Literal["depth", "density"] = Field(
        "depth",
        description="depth: rendered depth maps fused; density: iso-surface of the Gaussians' sum",
    )
    grid: int = Field(192, ge=16, description="nodes along the grid's longest side")
    trim: float = Field(
        0.0005,
        ge=0,
        lt=0.5,
        description="share of what the views show beyond each side of the grid",
    )
    reach_cells: float = Field(3.0, ge=1, description="depth: signed distances reach so many cells")
    reach_share: float = Field(
        0.1,
        ge=0,
        description="depth: or this share of the distance from the camera, where it is more",
    )
    level: float = Field(1.0, gt=0, description="density: the iso-surface's value")
    thickness: float = Field(
        0.5, ge=0, description="density: each Gaussian is blurred by so many cells"
    )
    min_part: float = Field(
        0.002,
        ge=0,
        le=1,
        description="smaller parts are left out, as a share of the largest's area",
    )
    smoothing: int = Field(10, ge=0, description="rounds of smoothing without shrinking")
    faces: int = Field(30_000, ge=4, description="faces at most, about")
    texture: int = Field(1024, ge=16, le=8192, description="texels a side")
    steps: int = Field(10, ge=0, description="conjugate-gradient steps that refine the texture")
    hold: float = Field(
        0.01, gt=0, description="weight that holds a texel where it was, beside a pixel's 1"
    )
    smooth: float = Field(
        0.3, ge=0, description="weight that lets neighbouring texels change alike"
    )


def place_grid(
    views: SurfaceViews,
    config: MeshConfig,
    bounds: tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]] | None = None,
) -> Grid:
    """The grid over what the views show, or over a box [scene units].

    It is even for a box, and where all is about equally far away; else even near the cameras alone.
    """
    if bounds is not None:
        return make_grid(*bounds, config.grid)
    points = views.points().double().numpy()
    near, far = np.quantile(views.depth[views.shows].numpy(), [0.02, 0.98])
    contraction = None
    if far > EVEN_RATIO * near:
        centre = views.cameras.positions.double().mean(dim=0).numpy()
        away = np.linalg.norm(points - centre, axis=1)
        contraction = Contraction(centre, float(np.quantile(away, EVEN_SHARE)))
    places = points if contraction is None else contraction.inward(points)
    lower, upper = (np.quantile(places, q, axis=0) for q in (config.trim, 1 - config.trim))
    margin = GRID_MARGIN * max(float((upper - lower).max()), 1e-9)
    return make_grid(lower - margin, upper + margin, config.grid, contraction)


def extract_surface(
    gaussians: Gaussians,
    views: SurfaceViews,
    grid: Grid,
    config: MeshConfig,
    *,
    all_around: bool = False,
    bytes_free: int | None = None,
    progress: Progress | None = None,
) -> Mesh:
    """The scene's surface as a clean mesh in the world, not yet textured.

    gaussians: unbatched. views: what the scene shows; with the method "depth" all that the surface comes from.
    all_around: the views show a body from everywhere. Else walls that no view shows are cut away.
    bytes_free: memory that may be taken; None asks nobody. Raises UserError where it does not suffice, and where
    there is no surface.
    """
    beside = BYTES_PER_GAUSSIAN * gaussians.num_gaussians if config.method == "density" else 0
    if bytes_free is not None:
        check_memory(grid, bytes_free - beside)
    if config.method == "depth":
        values, known = fuse_views(
            views,
            grid,
            config.reach_cells,
            config.reach_share,
            closed=all_around,
            on_progress=_stage(progress, "fusing depth"),
        )
        mesh = iso_surface(values, 0.0, known=known, inside_is_above=False)
    else:
        mesh = _density_surface(gaussians, views, grid, config, all_around, progress)
    inside = grid.in_box(grid.lower + grid.cell * mesh.corners())
    mesh = mesh.keep_faces(np.asarray(inside.all(axis=1)))
    if not mesh.num_faces:
        raise UserError("the mesh has nothing in it: the surface lies outside of the box")
    mesh = without_small_parts(mesh, config.min_part)
    # In the grid's coordinates, where near and far count alike.
    mesh = in_world(decimated(smoothed(mesh, config.smoothing), config.faces), grid)
    if not mesh.num_faces:
        raise UserError(
            f"the mesh has nothing in it: {config.faces} faces at most leave no surface"
        )
    return mesh


def _density_surface(
    gaussians: Gaussians,
    views: SurfaceViews,
    grid: Grid,
    config: MeshConfig,
    all_around: bool,
    progress: Progress | None,
) -> Mesh:
    """The density's iso-surface: all of a body, and of a scene what its views show."""
    thick = thickened(gaussians, grid, config.thickness)
    density = density_on_grid(thick, grid, _stage(progress, "density"))
    eyes = grid.to_grid(views.cameras.positions.double().numpy())
    fill_enclosed(density, config.level, np.round((eyes - grid.lower) / grid.cell).astype(np.int64))
    mesh = iso_surface(density, config.level, inside_is_above=True)
    if all_around:
        return mesh
    drawn = draw(in_world(mesh, grid), views.cameras)
    seen = np.zeros(mesh.num_faces, bool)
    seen[drawn.face[drawn.face >= 0]] = True
    return mesh.keep_faces(with_neighbours(mesh, seen, SEEN_RINGS))


def texture_mesh(
    mesh: Mesh, views: SurfaceViews, config: MeshConfig, progress: Progress | None = None
) -> TexturedMesh:
    """The mesh with the texture that shows in its views what the scene's renders show.

    Baked, refined, and filled where no view looks. The targets of the refinement are the views' frames; those of a
    prior go the same way after it (`models.meshing.texture_denoising`).
    """
    tell = progress or (lambda *_: None)
    tell("unwrapping", 0, 1)
    unwrapped = unwrap(mesh, config.texture)
    tell("unwrapping", 1, 1)
    baked, known = bake_texture(
        unwrapped, views, config.texture, _stage(progress, "baking texture")
    )
    texture = fill_texture(baked, known, unwrapped)
    if config.steps:
        texture = refine_texture(
            texture,
            texture_views(unwrapped, draw(unwrapped.mesh, views.cameras)),
            views.frames,
            weights=views.shows.to(texture.dtype),
            steps=config.steps,
            hold=config.hold,
            smooth=config.smooth,
            on_progress=_stage(progress, "refining texture"),
        )
    return TexturedMesh(unwrapped, texture)


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
