"""Pictures of meshes: with their texture, and their bare shape."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from eval.reconstruction import BACKGROUND
from models.meshing.files import TexturedMesh
from models.meshing.rasteriser import draw_mesh
from models.meshing.texture_fit import texture_views

SAMPLES = 2
"""Samples a pixel, along each side."""
CLAY = (0.86, 0.83, 0.78)
AMBIENT, HEADLIGHT, SUN = 0.25, 0.35, 0.45
SUN_DIRECTION = (-0.5, -0.7, -0.5)
"""From above left, behind the camera, in camera axes."""


def draw_textured(textured: TexturedMesh, cameras: Cameras) -> Float[Tensor, "v 3 h w"]:
    """The mesh as its texture has it, over the grey that scenes are rendered on."""
    views = texture_views(textured.unwrapped, _finer(cameras))
    drawn = views.look_up(textured.texture) + BACKGROUND * ~views.covered[:, None]
    return torch.nn.functional.avg_pool2d(drawn, SAMPLES)


def draw_clay(textured: TexturedMesh, cameras: Cameras) -> Float[Tensor, "v 3 h w"]:
    """The mesh without its texture: smooth shading, light from above left and from the camera."""
    mesh, normals = textured.unwrapped.mesh, textured.unwrapped.normals
    finer = _finer(cameras)
    drawn = draw_mesh(mesh.vertices, mesh.faces, finer)
    pictures = torch.full((*drawn.face.shape, 3), BACKGROUND)
    shown = drawn.face >= 0
    found = torch.from_numpy(drawn.interpolate(mesh.faces, normals)).float()
    view = torch.from_numpy(np.nonzero(shown)[0])
    rotations = finer.world_to_camera[:, :3, :3].float().cpu()
    local = torch.nn.functional.normalize((rotations[view] @ found[..., None])[..., 0], dim=1)
    # Whichever side faces the camera is lit.
    local = torch.where(local[:, 2:] > 0, -local, local)
    sun = torch.nn.functional.normalize(torch.tensor(SUN_DIRECTION), dim=0)
    light = AMBIENT - HEADLIGHT * local[:, 2] + SUN * (local @ sun).clamp(min=0)
    pictures[torch.from_numpy(shown)] = (light[:, None] * torch.tensor(CLAY)).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), SAMPLES)


def draw_depth(textured: TexturedMesh, cameras: Cameras) -> Float[Tensor, "v h w"]:
    """z-depth [scene units]; 0 where there is no mesh."""
    mesh = textured.unwrapped.mesh
    depth = torch.from_numpy(draw_mesh(mesh.vertices, mesh.faces, cameras).depth)
    return torch.where(depth.isfinite(), depth, 0.0)


def _finer(cameras: Cameras) -> Cameras:
    return cameras.resize(cameras.height * SAMPLES, cameras.width * SAMPLES)
