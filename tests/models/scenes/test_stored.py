"""Turning a scene and everything that looks at it changes no picture."""

from __future__ import annotations

import pytest
import torch

from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians
from models.rendering.render import render
from models.scenes.stored import colors_of, flip_y_and_z, harmonics_of


def scene(degree: int | None, num: int = 30) -> Gaussians:
    g = torch.Generator().manual_seed(2)
    k = 0 if degree is None else (degree + 1) ** 2
    return Gaussians(
        means=torch.randn(num, 3, generator=g).double() + torch.tensor([0, 0, 4.0]),
        quats=torch.nn.functional.normalize(torch.randn(num, 4, generator=g).double(), dim=1),
        scales=torch.exp(torch.randn(num, 3, generator=g).double() * 0.7 - 1.5),
        opacities=torch.rand(num, generator=g).double(),
        colors=(torch.randn(num, k, 3, generator=g) if k else torch.rand(num, 3, generator=g)).double(),
    )  # fmt: skip


@pytest.mark.parametrize("degree", [None, 0, 1, 2, 3])
def test_a_turned_scene_looks_the_same_to_a_turned_camera(degree: int | None) -> None:
    to_world = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    to_world[1, :3, 3] = torch.tensor([0.7, -0.4, 0.2])
    turn = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    matrices = intrinsics_from_fov(60.0, 12, 16).double().expand(2, 3, 3)
    seen = render(
        scene(degree), Cameras.from_camera_to_world(to_world, matrices, 12, 16), backend="reference"
    )
    turned = render(
        flip_y_and_z(scene(degree)),
        Cameras.from_camera_to_world(turn @ to_world, matrices, 12, 16),
        backend="reference",
    )
    assert seen.frames.std() > 0.1
    torch.testing.assert_close(turned.frames, seen.frames, atol=1e-9, rtol=0)
    again = flip_y_and_z(flip_y_and_z(scene(degree)))
    for name, tensor in scene(degree).tensors().items():
        assert torch.equal(getattr(again, name), tensor)


def test_rgb_is_degree_0_there_and_back() -> None:
    plain = scene(None)
    assert harmonics_of(plain).shape == (30, 1, 3)
    torch.testing.assert_close(colors_of(harmonics_of(plain)), plain.colors)
    assert colors_of(harmonics_of(scene(2))).shape == (30, 9, 3)
