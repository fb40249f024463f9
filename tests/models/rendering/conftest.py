"""Scenes that each make something hard: a factory by name, shared by the tests of all backends."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras
from models.gaussians import Gaussians

HEIGHT, WIDTH = 41, 54
SceneFactory = Callable[..., tuple[Gaussians, Cameras]]


def make_cameras(num_views: int, generator: torch.Generator) -> Cameras:
    """Views around the origin that look about along +z, each with its own intrinsics."""
    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(num_views, 1, 1)
    for view in range(num_views):
        turn = 0.1 * (torch.rand(3, generator=generator, dtype=torch.float64) - 0.5)
        world_to_camera[view, :3, :3] = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix())
        shift = torch.rand(3, generator=generator, dtype=torch.float64) - 0.5
        world_to_camera[view, :3, 3] = 0.2 * shift
    intrinsics = torch.zeros(num_views, 3, 3, dtype=torch.float64)
    for view in range(num_views):
        intrinsics[view] = torch.tensor(
            [[50.0 + 4 * view, 0, WIDTH / 2 - 3 * view], [0, 46.0, HEIGHT / 2 + view], [0, 0, 1]]
        )
    return Cameras(world_to_camera, intrinsics, HEIGHT, WIDTH)


def make_scene(
    kind: str = "plain", *, num_gaussians: int = 250, num_views: int = 2, sh_degree: int = -1
) -> tuple[Gaussians, Cameras]:
    """A scene in float64. Scales are in pixels at the Gaussian's depth before they become lengths."""
    generator = torch.Generator().manual_seed(sum(map(ord, kind)) + num_gaussians)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        values = torch.rand(*shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * values

    n = num_gaussians
    depth = uniform(2, 4, n)
    spread = uniform(-0.7, 0.7, n, 2)
    pixels = torch.exp(uniform(math.log(0.4), math.log(3.0), n, 3))
    opacities = uniform(0.02, 0.95, n)
    match kind:
        case "plain":
            pass
        case "needles":
            pixels = pixels * torch.tensor([8.0, 0.2, 0.2])
        case "specks":
            pixels = pixels * 0.02
        case "giants":
            pixels = pixels * 40
            opacities = opacities * 0.2
        case "outside the frustum":
            spread = uniform(-4, 4, n, 2)
            pixels = pixels * 8
        case "near plane":
            depth = uniform(-0.3, 0.5, n)
            opacities = opacities * 0.3
        case "saturated":
            opacities = 1 - uniform(0, 2e-3, n)
        case "many layers":
            opacities = uniform(0.7, 0.99, n)
            pixels = pixels * 3
        case "equal depths":
            depth = torch.full((n,), 2.5, dtype=torch.float64)
        case _:
            raise AssertionError(kind)
    num_coefficients = (sh_degree + 1) ** 2
    gaussians = Gaussians(
        means=torch.cat([spread * depth[:, None], depth[:, None]], dim=-1),
        quats=torch.randn(n, 4, generator=generator, dtype=torch.float64) * 2,
        scales=pixels * depth.abs().clamp(min=0.05)[:, None] / 50,
        opacities=opacities,
        colors=uniform(-0.8, 0.8, n, num_coefficients, 3)
        if sh_degree >= 0
        else uniform(0, 1, n, 3),
    )
    cameras = make_cameras(num_views, generator)
    if kind == "equal depths":
        # Exactly equal in camera axes too, in any precision.
        cameras.world_to_camera[:] = torch.eye(4, dtype=torch.float64)
        cameras.world_to_camera[:, 0, 3] = torch.arange(num_views) * 0.125
    return gaussians, cameras


@pytest.fixture
def scene_factory() -> SceneFactory:
    return make_scene
