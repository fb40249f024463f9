"""The reference against hand calculation, gsplat's own PyTorch functions and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import Gaussians, quat_to_matrix
from models.rendering import reference
from models.rendering.render import render
from models.rendering.spherical_harmonics import sh_basis, view_colors

gsplat_torch = pytest.importorskip("gsplat.cuda._torch_impl")


def stacked_disks(opacities: list[float], depths: list[float]) -> tuple[Gaussians, Cameras]:
    """Round Gaussians on the optical axis, of sigma 3 px, colour (1, 0, 0), (0, 1, 0), ..., 9 x 9 px."""
    n = len(opacities)
    focal = 10.0
    z = torch.tensor(depths, dtype=torch.float64)
    gaussians = Gaussians(
        means=torch.stack([0 * z, 0 * z, z], dim=-1),
        quats=torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(n, 1),
        scales=(3 * z / focal)[:, None].repeat(1, 3),
        opacities=torch.tensor(opacities, dtype=torch.float64),
        colors=torch.eye(3, dtype=torch.float64).repeat(-(-n // 3), 1)[:n],
    )
    intrinsics = torch.tensor([[[focal, 0, 4.5], [0, focal, 4.5], [0, 0, 1]]], dtype=torch.float64)
    return gaussians, Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics, 9, 9)


def test_one_gaussian_by_hand() -> None:
    gaussians, cameras = stacked_disks([0.6], [2.0])
    picture = render(gaussians, cameras, background=torch.tensor([0.0, 0, 1]), backend="reference")
    for row, column in [(4, 4), (4, 6), (7, 2)]:
        square = (column - 4) ** 2 + (row - 4) ** 2
        alpha = 0.6 * math.exp(-0.5 * square / (3**2 + 0.3))
        assert picture.alpha[0, row, column].item() == pytest.approx(alpha, rel=1e-12)
        assert picture.depth[0, row, column].item() == pytest.approx(2 * alpha, rel=1e-12)
        assert picture.expected_depth[0, row, column].item() == pytest.approx(2.0, rel=1e-12)
        expected = [alpha, 0, 1 - alpha]
        assert picture.frames[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-12)


def test_compositing_by_hand() -> None:
    # Given back to front; the last would take the transmittance from 1e-3 to 5e-5, so it is left out.
    gaussians, cameras = stacked_disks([0.95, 0.9995, 0.5, 0.002], [5.0, 4.0, 3.0, 1.0])
    picture = render(gaussians, cameras, backend="reference")
    center = picture.frames[0, :, 4, 4].tolist()
    # Colours: 5.0 red, 4.0 green, 3.0 blue. 1.0 is below 1/255. 0.9995 is clamped to 0.999.
    assert center == pytest.approx([0, 0.5 * 0.999, 0.5], abs=1e-12)
    assert picture.depth[0, 4, 4].item() == pytest.approx(3 * 0.5 + 4 * 0.5 * 0.999)


def test_projection_is_gsplats(scene_factory) -> None:
    for kind in ("plain", "outside the frustum", "needles"):
        gaussians, cameras = scene_factory(kind)
        covariances, _ = gsplat_torch._quat_scale_to_covar_preci(
            gaussians.quats, gaussians.scales, True, False
        )
        _, centers, depths, conics, compensations = gsplat_torch._fully_fused_projection(
            gaussians.means,
            covariances,
            cameras.world_to_camera,
            cameras.intrinsics,
            cameras.width,
            cameras.height,
            calc_compensations=True,
        )
        for view in range(cameras.num_views):
            ours, sharp, z = reference.project(
                gaussians,
                cameras.world_to_camera[view],
                cameras.intrinsics[view],
                cameras.height,
                cameras.width,
            )
            wide = sharp + 0.3 * torch.eye(2)
            inverse = torch.linalg.inv(wide)
            ratio = reference.determinant(sharp) / reference.determinant(wide)
            torch.testing.assert_close(ours, centers[view])
            torch.testing.assert_close(z, depths[view])
            packed = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=-1)
            torch.testing.assert_close(packed, conics[view])
            torch.testing.assert_close(
                ratio.clamp(min=0).sqrt(), compensations[view], atol=1e-6, rtol=1e-6
            )


def test_spherical_harmonics_are_gsplats(scene_factory) -> None:
    directions = torch.nn.functional.normalize(
        torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    for degree in range(4):
        expected = gsplat_torch._eval_sh_bases_fast((degree + 1) ** 2, directions)
        torch.testing.assert_close(sh_basis(directions, degree), expected, rtol=1e-6, atol=1e-9)

    gaussians, cameras = scene_factory(sh_degree=2)
    colors = view_colors(gaussians, cameras)
    toward = gaussians.means[None] - cameras.positions[:, None]
    expected = gsplat_torch._spherical_harmonics(2, toward, gaussians.colors.expand(2, -1, -1, -1))
    torch.testing.assert_close(colors, (expected + 0.5).clamp(min=0), rtol=1e-6, atol=1e-9)


def test_shapes_are_those_of_the_covariance() -> None:
    """A long Gaussian turned a quarter about z is long along y in the picture."""
    gaussians, cameras = stacked_disks([0.9], [2.0])
    quarter = torch.tensor([[math.sqrt(0.5), 0, 0, math.sqrt(0.5)]], dtype=torch.float64)
    assert quat_to_matrix(quarter)[0, 1, 0].item() == pytest.approx(1)
    gaussians = Gaussians(
        gaussians.means,
        quarter,
        gaussians.scales * torch.tensor([1.0, 0.2, 0.2]),
        gaussians.opacities,
        gaussians.colors,
    )
    alpha = render(gaussians, cameras, backend="reference").alpha[0]
    assert alpha[0, 4] > 5 * alpha[4, 0]


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_are_finite_differences(scene_factory, antialiased: bool) -> None:
    gaussians, cameras = scene_factory("plain", num_gaussians=12, num_views=1, sh_degree=1)
    cameras = cameras.resize(10, 12)
    generator = torch.Generator().manual_seed(3)
    frame_weights = torch.rand(1, 3, 10, 12, generator=generator).double()
    depth_weights = torch.rand(1, 10, 12, generator=generator).double()

    def loss(*tensors: Tensor) -> Tensor:
        *parts, world_to_camera = tensors
        views = Cameras(world_to_camera, cameras.intrinsics, cameras.height, cameras.width)
        picture = render(Gaussians(*parts), views, antialiased=antialiased, backend="reference")
        return (
            (picture.frames * frame_weights).sum()
            + (picture.depth * depth_weights).sum()
            + picture.alpha.square().sum()
        )

    inputs = [
        t.clone().requires_grad_() for t in (*gaussians.tensors().values(), cameras.world_to_camera)
    ]
    # Thresholds make the picture jump in places; this scene's do not lie within the step.
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-4, rtol=1e-4, fast_mode=True)
