"""Pictures of meshes: with their texture, and their bare shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from eval.reconstruction import BACKGROUND
from models.meshing.files import TexturedMesh
from models.meshing.rasteriser import Fragments, draw
from models.meshing.surface import Mesh
from models.meshing.texture_fit import texture_views

CLAY = (0.86, 0.83, 0.78)
AMBIENT, HEADLIGHT, SUN = 0.25, 0.35, 0.45
SUN_DIRECTION = (-0.5, -0.7, -0.5)
"""From above left, behind the camera, in camera axes."""


@dataclass(frozen=True)
class MeshPictures:
    """Views of a mesh: with its texture, as bare clay, and its z-depth (0 where there is none)."""

    textured: Float[Tensor, "v 3 h w"]
    clay: Float[Tensor, "v 3 h w"]
    depth: Float[Tensor, "v h w"]


def draw_pictures(textured: TexturedMesh, cameras: Cameras, samples: int = 2) -> MeshPictures:
    """Views over the grey that scenes are rendered on. samples: a pixel, along each side."""
    finer = cameras.resize(cameras.height * samples, cameras.width * samples)
    drawn = draw(textured.unwrapped.mesh, finer)
    views = texture_views(textured.unwrapped, drawn)
    clay = _clay(textured.unwrapped.mesh, textured.unwrapped.normals, drawn, finer)
    depth = torch.from_numpy(drawn.depth)[:, samples // 2 :: samples, samples // 2 :: samples]
    return MeshPictures(
        views.pictures(textured.texture, BACKGROUND, samples),
        torch.nn.functional.avg_pool2d(clay, samples),
        torch.where(depth.isfinite(), depth, 0.0),
    )


def draw_clay(
    mesh: Mesh, normals: Float[np.ndarray, "vertex 3"], cameras: Cameras, samples: int = 2
) -> Float[Tensor, "v 3 h w"]:
    """Views of a bare shape, over the grey that scenes are rendered on. samples: a pixel, along each side."""
    finer = cameras.resize(cameras.height * samples, cameras.width * samples)
    return torch.nn.functional.avg_pool2d(_clay(mesh, normals, draw(mesh, finer), finer), samples)


def _clay(
    mesh: Mesh, normals: Float[np.ndarray, "vertex 3"], drawn: Fragments, cameras: Cameras
) -> Float[Tensor, "v 3 h w"]:
    """Smooth shading without texture, with light from above left and from the camera."""
    pictures = torch.full((*drawn.face.shape, 3), BACKGROUND)
    shown = drawn.face >= 0
    found = torch.from_numpy(drawn.interpolate(mesh.faces, normals)).float()
    counts = torch.from_numpy(shown.sum(axis=(1, 2)))
    rotations = cameras.world_to_camera[:, :3, :3].float().cpu()
    local = torch.cat(
        [part @ turn.mT for part, turn in zip(found.split(counts.tolist()), rotations, strict=True)]
    )
    local = torch.nn.functional.normalize(local, dim=1)
    # Whichever side faces the camera is lit.
    local = torch.where(local[:, 2:] > 0, -local, local)
    sun = torch.nn.functional.normalize(torch.tensor(SUN_DIRECTION), dim=0)
    light = AMBIENT - HEADLIGHT * local[:, 2] + SUN * (local @ sun).clamp(min=0)
    pictures[torch.from_numpy(shown)] = (light[:, None] * torch.tensor(CLAY)).clamp(0, 1)
    return pictures.movedim(-1, 1)
