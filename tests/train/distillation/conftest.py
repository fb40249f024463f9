"""A small scene with a path, the truth of its views, and small models."""

from __future__ import annotations

import pytest
import torch

from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians
from models.rendering.render import render

HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="session")
def path() -> Cameras:
    to_world = torch.eye(4).repeat(9, 1, 1)
    to_world[:, 0, 3] = torch.linspace(0, 0.3, 9)
    intrinsics = intrinsics_from_fov(50.0, HEIGHT, WIDTH).expand(9, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, HEIGHT, WIDTH)


@pytest.fixture(scope="session")
def truth() -> Gaussians:
    g = torch.Generator().manual_seed(0)
    count = 150
    place = torch.rand(count, 2, generator=g) - 0.5
    depth = 0.8 + 0.6 * torch.rand(count, generator=g)
    return Gaussians(
        means=torch.cat([place * depth[:, None] * torch.tensor([1.4, 1.0]), depth[:, None]], dim=1),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=0.03 + 0.06 * torch.rand(count, 3, generator=g),
        opacities=0.6 + 0.35 * torch.rand(count, generator=g),
        colors=torch.rand(count, 3, generator=g),
    )


@pytest.fixture(scope="session")
def damaged(truth) -> Gaussians:
    g = torch.Generator().manual_seed(1)
    return Gaussians(
        means=truth.means + 0.03 * torch.randn(truth.means.shape, generator=g),
        quats=truth.quats,
        scales=truth.scales * (0.3 * torch.randn(truth.scales.shape, generator=g)).exp(),
        opacities=truth.opacities * 0.8,
        colors=(truth.colors + 0.25 * torch.randn(truth.colors.shape, generator=g)).clamp(0, 1),
    )


@pytest.fixture(scope="session")
def look(truth):
    """The true pictures of any cameras."""

    def see(cameras: Cameras) -> torch.Tensor:
        return render(truth, cameras, background=torch.full((3,), 0.5)).frames

    return see
