"""A first texture: every texel looked up in the pictures that show it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.warping import look_up
from models.meshing.rasteriser import draw, draw_atlas
from models.meshing.surface_views import SurfaceViews
from models.meshing.unwrap import Unwrapped

DEPTH_TOLERANCE = 0.01
"""A texel shows in a picture where it is at most this share of its depth behind what the mesh shows there."""
FAR_AWAY = 1e6
MIN_COSINE = 0.1
"""Faces seen at a flatter angle than this take no colour from there."""
SHARPNESS = 4.0
"""Pictures weigh by the cosine between surface and ray to this power: the most frontal ones decide."""


def bake_texture(
    unwrapped: Unwrapped,
    views: SurfaceViews,
    size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[Tensor, "3 size size"], Bool[Tensor, "size size"]]:
    """Colours of the texels that any picture shows, 0 elsewhere, and which those are."""
    mesh = unwrapped.mesh
    atlas = draw_atlas(unwrapped.uvs, mesh.faces, size)
    points = torch.from_numpy(atlas.interpolate(mesh.faces, mesh.vertices))
    normals = torch.from_numpy(atlas.interpolate(mesh.faces, unwrapped.normals))
    normals = torch.nn.functional.normalize(normals, dim=1)
    areas = mesh.area_vectors()[atlas.face[atlas.face >= 0]]
    flat_normals = torch.nn.functional.normalize(torch.from_numpy(areas), dim=1)
    total, weights = torch.zeros(3, len(points)), torch.zeros(len(points))
    cameras = views.cameras.to(torch.float64)
    for view in range(cameras.num_views):
        camera = cameras.select(view)
        depth = torch.from_numpy(draw(mesh, camera).depth)
        content = torch.cat([views.frames[view], depth.nan_to_num(posinf=FAR_AWAY)])
        found, shown = look_up(content[None].double(), camera, points[None, :, None])
        ray = points - camera.positions
        z = ray @ camera.world_to_camera[0, 2, :3]
        ray = ray / ray.norm(dim=1, keepdim=True)
        visible = shown[0, :, 0] & (z <= found[0, 3, :, 0] * (1 + DEPTH_TOLERANCE))
        visible &= -(flat_normals * ray).sum(1) > MIN_COSINE
        # Smooth normals decide among views, so that neighbouring faces take their colours from the same ones.
        cosine = -(normals * ray).sum(1).clamp(max=-MIN_COSINE)
        weight = torch.where(visible, cosine**SHARPNESS, 0.0)
        total += (weight * found[0, :3, :, 0]).float()
        weights += weight.float()
        if on_progress is not None:
            on_progress(view + 1, cameras.num_views)
    texture, known = torch.zeros(3, size, size), torch.zeros(size, size, dtype=torch.bool)
    on_mesh = torch.from_numpy(atlas.face[0] >= 0)
    texture[:, on_mesh] = total / weights.clamp(min=1e-12)
    known[on_mesh] = weights > 0
    return texture, known
