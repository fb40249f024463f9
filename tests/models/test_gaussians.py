"""Gaussians: rotations against scipy, transformation against moved cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import (
    SH_C0,
    Gaussians,
    concatenate_gaussians,
    matrix_to_quat,
    multiply_quats,
    quat_to_matrix,
    stack_gaussians,
)
from models.rendering.render import render


def make_gaussians(num: int = 80, sh_degree: int | None = None, seed: int = 0) -> Gaussians:
    """In float64, in front of a camera at the origin."""
    g = torch.Generator().manual_seed(seed)
    k = 0 if sh_degree is None else (sh_degree + 1) ** 2

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    return Gaussians(
        means=uniform(num, 3) * torch.tensor([2.0, 2.0, 2.0]) + torch.tensor([-1.0, -1.0, 2.0]),
        quats=torch.randn(num, 4, generator=g, dtype=torch.float64),
        scales=uniform(num, 3) * 0.2 + 0.02,
        opacities=uniform(num) * 0.9 + 0.05,
        colors=uniform(num, k, 3) if k else uniform(num, 3),
    )


def rotations() -> Rotation:
    """Random ones, every half turn about an axis or a diagonal, and turns just beside the half."""
    axes = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, -1, 1], [1, 2, -3], [0, 0, 0]]
    axes = np.array(axes, dtype=float)
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1)
    turns = [axes * angle for angle in (np.pi, np.pi - 1e-5, -np.pi + 1e-5, 1e-6, 2.0)]
    return Rotation.concatenate(
        [Rotation.random(200, rng=1), Rotation.from_rotvec(np.vstack(turns))]
    )


def same_rotation(first: Tensor, second: Tensor) -> Tensor:
    """Distance of unit quaternions, a quaternion and its negative being one rotation."""
    return torch.minimum((first - second).norm(dim=-1), (first + second).norm(dim=-1))


def test_quaternions_are_scipys() -> None:
    truth = rotations()
    matrices = torch.from_numpy(truth.as_matrix())
    quats = torch.from_numpy(truth.as_quat(scalar_first=True))
    found = matrix_to_quat(matrices)
    assert same_rotation(found, quats).max() < 1e-9
    assert (found[:, 0] >= 0).all()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found), dtype=torch.float64))
    torch.testing.assert_close(quat_to_matrix(3 * quats), matrices, rtol=0, atol=1e-12)
    assert same_rotation(matrix_to_quat(matrices.float()).double(), quats).max() < 1e-6


def test_quaternion_products_are_scipys() -> None:
    first = Rotation.random(50, rng=2)
    second = Rotation.random(50, rng=3)
    product = multiply_quats(
        torch.from_numpy(first.as_quat(scalar_first=True)),
        torch.from_numpy(second.as_quat(scalar_first=True)),
    )
    expected = torch.from_numpy((first * second).as_quat(scalar_first=True))
    assert same_rotation(product, expected).max() < 1e-12


@pytest.mark.parametrize("sh_degree", [None, 0])
@pytest.mark.parametrize("scale", [1.0, 0.3, 5.0])
def test_a_transformed_scene_looks_the_same_to_transformed_cameras(
    scale: float, sh_degree: int | None
) -> None:
    gaussians = make_gaussians(sh_degree=sh_degree)
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 40, 16], [0, 0, 1]], dtype=torch.float64)
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics[None], 32, 40)
    before = render(gaussians, camera, backend="reference")

    rotation = torch.from_numpy(Rotation.from_rotvec([0.7, -2.1, 0.4]).as_matrix())
    translation = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    moved = gaussians.transform(rotation, translation, scale)
    # Camera axes scale along: scale * x = rotation^T (x' - translation).
    world_to_camera = torch.eye(4, dtype=torch.float64)[None]
    world_to_camera[0, :3, :3] = rotation.T
    world_to_camera[0, :3, 3] = -rotation.T @ translation
    after = render(moved, replace(camera, world_to_camera=world_to_camera), backend="reference")

    assert before.alpha.max() > 0.5
    torch.testing.assert_close(after.frames, before.frames, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.depth, scale * before.depth, rtol=0, atol=1e-9)


def test_higher_harmonics_are_not_turned_wrongly() -> None:
    with pytest.raises(AssertionError, match="spherical harmonics"):
        make_gaussians(sh_degree=1).transform(
            torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        )


def test_degrees() -> None:
    assert make_gaussians().sh_degree is None
    for degree in range(4):
        assert make_gaussians(sh_degree=degree).sh_degree == degree
    batch = stack_gaussians([make_gaussians(sh_degree=2, seed=s) for s in range(3)])
    assert batch.sh_degree == 2
    assert batch.batch_shape == (3,)


def test_degree_0_is_rgb() -> None:
    gaussians = make_gaussians()
    harmonics = replace(gaussians, colors=(gaussians.colors[:, None] - 0.5) / SH_C0)
    assert harmonics.sh_degree == 0
    intrinsics = torch.tensor([[20.0, 0, 10], [0, 20, 8], [0, 0, 1]], dtype=torch.float64)
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics[None], 16, 20)
    torch.testing.assert_close(
        render(harmonics, camera, backend="reference").frames,
        render(gaussians, camera, backend="reference").frames,
    )


@pytest.mark.parametrize("sh_degree", [None, 1])
def test_joining_and_picking(sh_degree: int | None) -> None:
    first = make_gaussians(5, sh_degree, seed=1)
    second = make_gaussians(7, sh_degree, seed=2)
    joined = concatenate_gaussians([first, second])
    assert joined.num_gaussians == 12
    for name, tensor in joined.select(torch.arange(12) >= 5).tensors().items():
        assert torch.equal(tensor, getattr(second, name))
    stacked = stack_gaussians([first, replace(first, opacities=first.opacities / 2)])
    assert torch.equal(stacked.sample(1).opacities, first.opacities / 2)
    pair = concatenate_gaussians([stacked, stacked])
    assert pair.batch_shape == (2,)
    assert pair.num_gaussians == 10
    assert pair.sh_degree == sh_degree


def test_pruning() -> None:
    gaussians = make_gaussians()
    kept = gaussians.prune(0.5)
    assert 0 < kept.num_gaussians < gaussians.num_gaussians
    assert kept.opacities.min() >= 0.5
    assert kept.num_gaussians == int((gaussians.opacities >= 0.5).sum())


def test_conversions() -> None:
    gaussians = make_gaussians()
    gaussians.means.requires_grad_()
    single = gaussians.to("cpu", torch.float32)
    assert {t.dtype for t in single.tensors().values()} == {torch.float32}
    assert single.means.requires_grad
    assert not gaussians.detach().means.requires_grad
