"""Lens distortion against pycolmap's own camera models and an analytic picture."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from data.importers.distortion import Distortion, undistort

HEIGHT, WIDTH = 90, 120
INTRINSICS = torch.tensor([[110.0, 0, 57], [0, 105, 48], [0, 0, 1]], dtype=torch.float64)

coefficients = st.floats(-0.1, 0.1)


@given(coefficients, coefficients, coefficients, coefficients)
@settings(max_examples=50, deadline=None)
def test_distortion_is_pycolmaps_opencv_model(k1: float, k2: float, p1: float, p2: float) -> None:
    camera = pycolmap.Camera(
        model="OPENCV", width=WIDTH, height=HEIGHT, params=[110, 105, 57, 48, k1, k2, p1, p2]
    )
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2))
    expected = camera.img_from_cam(np.concatenate([points, np.ones((20, 1))], axis=1))
    moved = Distortion(k1=k1, k2=k2, p1=p1, p2=p2).distort(torch.from_numpy(points))
    pixels = moved * torch.tensor([110.0, 105.0]) + torch.tensor([57.0, 48.0])
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-9)


def test_the_third_radial_term_is_pycolmaps_full_opencv_model() -> None:
    params = [110, 105, 57, 48, 0.1, -0.05, 0.01, 0.02, 0.03, 0, 0, 0]
    camera = pycolmap.Camera(model="FULL_OPENCV", width=WIDTH, height=HEIGHT, params=params)
    expected = camera.img_from_cam(np.array([[0.3, -0.4, 1.0]]))[0]
    lens = Distortion(k1=0.1, k2=-0.05, k3=0.03, p1=0.01, p2=0.02)
    moved = lens.distort(torch.tensor([0.3, -0.4], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(moved * [110, 105] + [57, 48], expected, atol=1e-9)


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture as a function of the direction (x, y, 1)."""
    return np.stack(
        [0.5 + 0.4 * np.sin(9 * x), 0.5 + 0.4 * np.cos(8 * y), 0.5 + 0.4 * np.sin(7 * (x + y))]
    )


@pytest.mark.parametrize(
    "lens",
    [
        Distortion(k1=-0.15),
        Distortion(k1=0.15),
        Distortion(k1=-0.1, k2=0.02, p1=0.004, p2=-0.006),
        Distortion(k1=0.05, k2=-0.02, k3=0.01),
    ],
)
def test_undistorted_pictures_are_what_a_pinhole_sees(lens: Distortion) -> None:
    """pycolmap says which direction each pixel of the lens saw; the pinhole picture must show the
    same function of direction, with its own intrinsics."""
    params = [110, 105, 57, 48, lens.k1, lens.k2, lens.p1, lens.p2, lens.k3, 0, 0, 0]
    camera = pycolmap.Camera(model="FULL_OPENCV", width=WIDTH, height=HEIGHT, params=params)
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    directions = camera.cam_from_img(np.stack([u.ravel(), v.ravel()], axis=1))
    seen = waves(directions[:, 0], directions[:, 1]).reshape(3, HEIGHT, WIDTH)

    pinhole, matrix = undistort(torch.from_numpy(seen).float(), INTRINSICS, lens, "a.jpg")
    x = (u - matrix[0, 2].item()) / matrix[0, 0].item()
    y = (v - matrix[1, 2].item()) / matrix[1, 1].item()
    difference = np.abs(pinhole.numpy() - waves(x, y))
    assert difference[:, 2:-2, 2:-2].max() < 4e-3, "half a pixel off would be 0.016"
    assert difference.max() < 0.03, "the border is filled from inside the picture"


def test_the_view_is_narrowed_only_where_the_border_would_be_blank() -> None:
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    _, barrel = undistort(image, INTRINSICS, Distortion(k1=-0.1), "a.jpg")
    assert torch.equal(barrel, INTRINSICS)
    _, cushion = undistort(image, INTRINSICS, Distortion(k1=0.1), "a.jpg")
    assert 1 < cushion[0, 0] / INTRINSICS[0, 0] < 1.06
    assert torch.equal(cushion[:2, 2], INTRINSICS[:2, 2])


def test_no_distortion_changes_nothing() -> None:
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    same, matrix = undistort(image, INTRINSICS, Distortion(), "a.jpg")
    assert same is image and matrix is INTRINSICS


@pytest.mark.parametrize("lens", [Distortion(k1=-0.8), Distortion(k1=-5.0), Distortion(k1=5000.0)])
def test_impossible_coefficients_are_refused(lens: Distortion) -> None:
    with pytest.raises(UserError, match=r"a.jpg: Distortion\(k1="):
        undistort(torch.zeros(3, HEIGHT, WIDTH), INTRINSICS, lens, "a.jpg")
