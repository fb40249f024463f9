"""A small scene of 80 Gaussians, six cameras, and what they see of it."""

from __future__ import annotations

import pytest
import torch

from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians
from models.rendering.render import render

HEIGHT, WIDTH = 24, 32
GREY = torch.full((3,), 0.5)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    to_world = torch.eye(4).repeat(6, 1, 1)
    to_world[:, 0, 3] = torch.linspace(-0.3, 0.3, 6)
    to_world[:, 1, 3] = torch.tensor([0.0, 0.1, -0.1, 0.1, -0.1, 0.0])
    intrinsics = intrinsics_from_fov(50.0, HEIGHT, WIDTH).expand(6, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    g = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.rand(80, 3, generator=g) * torch.tensor([1.2, 0.9, 1.0])
        + torch.tensor([-0.6, -0.45, 0.8]),
        quats=torch.nn.functional.normalize(torch.randn(80, 4, generator=g), dim=-1),
        scales=0.04 + 0.08 * torch.rand(80, 3, generator=g),
        opacities=0.5 + 0.45 * torch.rand(80, generator=g),
        colors=torch.rand(80, 3, generator=g),
    )


@pytest.fixture(scope="module")
def frames(scene, cameras) -> torch.Tensor:
    return render(scene, cameras, background=GREY).frames


@pytest.fixture(scope="module")
def perturbed(scene) -> Gaussians:
    g = torch.Generator().manual_seed(1)
    return Gaussians(
        means=scene.means + 0.05 * torch.randn(80, 3, generator=g),
        quats=scene.quats + 0.3 * torch.randn(80, 4, generator=g),
        scales=scene.scales * (0.5 * torch.randn(80, 3, generator=g)).exp(),
        opacities=torch.full((80,), 0.5),
        colors=(scene.colors + 0.3 * torch.randn(80, 3, generator=g)).clamp(0, 1),
    )
