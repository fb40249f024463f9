"""Cameras against scipy's rotations, plain numpy projection and pycolmap; never against themselves."""

from __future__ import annotations

import math

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.cameras import (
    Cameras,
    concatenate_cameras,
    intrinsics_from_fov,
    invert_rigid,
    pixel_centres,
    skew,
    stack_cameras,
)

HEIGHT, WIDTH = 6, 10


def random_cameras(seed: int, num_views: int = 3, extent: float = 5.0) -> Cameras:
    """Any rotations and positions; intrinsics with two focal lengths and an off-centre principal point."""
    rng = np.random.default_rng(seed)
    camera_to_world = np.tile(np.eye(4), (num_views, 1, 1))
    camera_to_world[:, :3, :3] = Rotation.random(num_views, rng=rng).as_matrix()
    camera_to_world[:, :3, 3] = rng.uniform(-extent, extent, (num_views, 3))
    intrinsics = np.zeros((num_views, 3, 3))
    intrinsics[:, 0, 0] = rng.uniform(5, 30, num_views)
    intrinsics[:, 1, 1] = rng.uniform(5, 30, num_views)
    intrinsics[:, 0, 2] = rng.uniform(0, WIDTH, num_views)
    intrinsics[:, 1, 2] = rng.uniform(0, HEIGHT, num_views)
    intrinsics[:, 2, 2] = 1
    return Cameras.from_camera_to_world(
        torch.from_numpy(camera_to_world), torch.from_numpy(intrinsics), HEIGHT, WIDTH
    )


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_round_trips_to_1e_6(seed: int) -> None:
    cameras = random_cameras(seed, extent=1000.0)
    again = Cameras.from_camera_to_world(cameras.camera_to_world, cameras.intrinsics, HEIGHT, WIDTH)
    torch.testing.assert_close(again.world_to_camera, cameras.world_to_camera, atol=1e-6, rtol=0)
    scaled = cameras.rescaled(3.7).rescaled(1 / 3.7)
    torch.testing.assert_close(scaled.world_to_camera, cameras.world_to_camera, atol=1e-6, rtol=0)
    resized = cameras.resize(4 * HEIGHT, 3 * WIDTH).resize(HEIGHT, WIDTH)
    torch.testing.assert_close(resized.intrinsics, cameras.intrinsics, atol=1e-6, rtol=0)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_inverse_is_numpys_inverse(seed: int) -> None:
    transform = random_cameras(seed).camera_to_world
    expected = np.linalg.inv(transform.numpy())
    np.testing.assert_allclose(invert_rigid(transform).numpy(), expected, atol=1e-9)


def test_axes_are_opencvs_by_hand() -> None:
    """A camera at (0, 0, -2) that looks along +z: x goes right, y down, z forward."""
    camera_to_world = torch.eye(4, dtype=torch.float64)[None]
    camera_to_world[0, 2, 3] = -2
    matrix = torch.tensor([[[10.0, 0, 5], [0, 20, 3], [0, 0, 1]]], dtype=torch.float64)
    cameras = Cameras.from_camera_to_world(camera_to_world, matrix, HEIGHT, WIDTH)
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2]], dtype=torch.float64)
    pixels, depths = cameras.project(points)
    assert pixels[0].tolist() == [[5, 3], [10, 3], [5, 13], [5, 3]]
    assert depths[0].tolist() == [2, 2, 2, 4]
    assert cameras.positions.tolist() == [[0, 0, -2]]


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_projection_is_pycolmaps(seed: int) -> None:
    cameras = random_cameras(seed, num_views=1)
    matrix = cameras.intrinsics[0]
    camera = pycolmap.Camera(
        model="PINHOLE",
        width=WIDTH,
        height=HEIGHT,
        params=[matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]],
    )
    pose = pycolmap.Rigid3d(cameras.world_to_camera[0, :3].numpy())
    points = np.random.default_rng(seed).uniform(-20, 20, (50, 3))
    local = np.stack([pose * point for point in points])
    front = local[:, 2] > 0.1
    pixels, depths = cameras.project(torch.from_numpy(points))
    expected = camera.img_from_cam(local[front])
    np.testing.assert_allclose(pixels[0, front].numpy(), expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(depths[0].numpy(), local[:, 2], atol=1e-9)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_rays_go_through_what_is_seen_at_their_pixels(seed: int) -> None:
    """Numpy projects a point of each ray back to the centre of the ray's pixel."""
    cameras = random_cameras(seed)
    origins, directions = cameras.rays()
    assert directions.shape == (3, HEIGHT, WIDTH, 3)
    points = (origins[:, None, None] + 2.5 * directions).numpy()
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    for view in range(3):
        transform = np.linalg.inv(cameras.camera_to_world[view].numpy())
        local = points[view] @ transform[:3, :3].T + transform[:3, 3]
        image = local @ cameras.intrinsics[view].numpy().T
        np.testing.assert_allclose(image[..., 0] / image[..., 2], columns, atol=1e-6)
        np.testing.assert_allclose(image[..., 1] / image[..., 2], rows, atol=1e-6)
        assert (local[..., 2] > 0).all()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_plucker_rays_are_lines_through_the_camera(seed: int) -> None:
    cameras = random_cameras(seed)
    plucker = cameras.plucker().numpy()
    assert plucker.shape == (3, 6, HEIGHT, WIDTH)
    moment = np.moveaxis(plucker[:, :3], 1, -1)
    direction = np.moveaxis(plucker[:, 3:], 1, -1)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, atol=1e-9)
    origin = cameras.camera_to_world[:, None, None, :3, 3].numpy()
    np.testing.assert_allclose(moment, np.cross(origin, direction), atol=1e-9)
    # |p x d - m| is the distance of p from the line: 0 for the points that a ray passes.
    _, directions = cameras.rays()
    along = origin + 3.7 * directions.numpy()
    distance = np.linalg.norm(np.cross(along, direction) - moment, axis=-1)
    np.testing.assert_allclose(distance, 0, atol=1e-9)
    aside = along + np.cross(directions.numpy(), [0.3, 0.5, 0.8])
    distance = np.linalg.norm(np.cross(aside, direction) - moment, axis=-1)
    assert (distance > 0.01).mean() > 0.9


@given(seeds, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_resize_commutes_with_projection(seed: int, height: int, width: int) -> None:
    cameras = random_cameras(seed)
    points = torch.from_numpy(np.random.default_rng(seed).uniform(-9, 9, (20, 3)))
    before, _ = cameras.project(points)
    after, _ = cameras.resize(height, width).project(points)
    scale = torch.tensor([width / WIDTH, height / HEIGHT], dtype=torch.float64)
    torch.testing.assert_close(after, before * scale, atol=1e-6, rtol=1e-9)


@given(seeds, st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_crop_commutes_with_projection_and_rays(seed: int, top: int, left: int) -> None:
    cameras = random_cameras(seed)
    cropped = cameras.crop(top, left, HEIGHT - top, WIDTH - left)
    points = torch.from_numpy(np.random.default_rng(seed).uniform(-9, 9, (20, 3)))
    shift = torch.tensor([left, top], dtype=torch.float64)
    torch.testing.assert_close(
        cropped.project(points)[0], cameras.project(points)[0] - shift, atol=1e-6, rtol=1e-9
    )
    torch.testing.assert_close(cropped.rays()[1], cameras.rays()[1][:, top:, left:])


@given(seeds, st.integers(-3, 2))
@settings(max_examples=30, deadline=None)
def test_relative_cameras_see_the_moved_world(seed: int, view: int) -> None:
    """Points moved into the axes of `view` fall on the same pixels; `view` becomes the identity."""
    cameras = random_cameras(seed)
    relative = cameras.relative_to(view)
    assert torch.equal(relative.world_to_camera[view], torch.eye(4, dtype=torch.float64))
    points = np.random.default_rng(seed).uniform(-9, 9, (20, 3))
    transform = np.linalg.inv(cameras.camera_to_world[view].numpy())
    moved = points @ transform[:3, :3].T + transform[:3, 3]
    torch.testing.assert_close(
        relative.project(torch.from_numpy(moved)),
        cameras.project(torch.from_numpy(points)),
        atol=1e-6,
        rtol=1e-6,
    )


def test_rescaling_moves_points_and_cameras_alike() -> None:
    cameras = random_cameras(1)
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels, depths = cameras.project(points)
    new_pixels, new_depths = cameras.rescaled(4.0).project(points / 4)
    torch.testing.assert_close(new_pixels, pixels)
    torch.testing.assert_close(new_depths, depths / 4)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scene_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(UserError, match="scene scale must be positive"):
        random_cameras(0).rescaled(scale)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (torch.tensor(2), [2]),
        ([2, 0], [2, 0]),
        (slice(1, None), [1, 2]),
        (torch.tensor([1, 1, 0]), [1, 1, 0]),
    ],
)
def test_select_keeps_the_view_axis(views: object, expected: list[int]) -> None:
    cameras = random_cameras(2)
    selected = cameras.select(views)  # type: ignore[arg-type]
    assert len(selected) == len(expected)
    assert torch.equal(selected.world_to_camera, cameras.world_to_camera[expected])
    assert torch.equal(selected.intrinsics, cameras.intrinsics[expected])


def test_batches_of_cameras_work_like_each_alone() -> None:
    parts = [random_cameras(seed) for seed in (3, 4)]
    batch = stack_cameras(parts)
    points = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels, depths = batch.project(points)
    for i, part in enumerate(parts):
        torch.testing.assert_close(pixels[i], part.project(points[i])[0])
        torch.testing.assert_close(depths[i], part.project(points[i])[1])
        torch.testing.assert_close(batch.plucker()[i], part.plucker())
        torch.testing.assert_close(
            batch.relative_to(1).world_to_camera[i], part.relative_to(1).world_to_camera
        )
    together = concatenate_cameras(parts)
    assert torch.equal(together.world_to_camera[3:], parts[1].world_to_camera)


def test_pixel_centres_sit_at_half() -> None:
    centres = pixel_centres(2, 3)
    assert centres[0, 0].tolist() == [0.5, 0.5, 1]
    assert centres[1, 2].tolist() == [2.5, 1.5, 1]


def test_skew_is_numpys_cross_product() -> None:
    a, b = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = (skew(a) @ b[..., None])[..., 0]
    np.testing.assert_allclose(product.numpy(), np.cross(a.numpy(), b.numpy()), atol=1e-12)


def test_field_of_view_reaches_the_border() -> None:
    matrix = intrinsics_from_fov(70.0, 64, 96)
    half_angle = math.degrees(math.atan((64 - matrix[1, 2]) / matrix[1, 1]))
    assert half_angle == pytest.approx(35.0, abs=1e-5)
    assert matrix[0, 2] == 48 and matrix[0, 0] == matrix[1, 1]
    with pytest.raises(UserError, match="between 0 and 180"):
        intrinsics_from_fov(180.0, 64, 96)


def corrupted(what: str) -> Cameras:
    cameras = random_cameras(5)
    transform, matrix = cameras.world_to_camera.clone(), cameras.intrinsics.clone()
    height = HEIGHT
    match what:
        case "nan":
            transform[1, 0, 3] = math.nan
        case "scaled":
            transform[1, :3, :3] *= 1.01
        case "sheared":
            transform[1, 0, :3] += transform[1, 1, :3] * 0.01
        case "mirrored":
            transform[1, 2, :3] *= -1
        case "last row":
            transform[1, 3, 0] = 0.5
        case "focal":
            matrix[1, 1, 1] = 0
        case "infinite focal":
            matrix[1, 0, 0] = math.inf
        case "intrinsics row":
            matrix[1, 2, 2] = 2
        case "missing":
            matrix = matrix[:2]
        case "size":
            height = 0
    # Built without __init__, whose shapes the tests check, since files can hold anything.
    made = object.__new__(Cameras)
    for name, value in (
        ("world_to_camera", transform),
        ("intrinsics", matrix),
        ("height", height),
        ("width", WIDTH),
    ):
        object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", r"f.json: camera 1 has NaN or infinite"),
        ("scaled", r"f.json: camera 1 has a rotation that is not orthonormal \(off by 0.02"),
        ("sheared", r"f.json: camera 1 has a rotation that is not orthonormal"),
        ("mirrored", r"f.json: camera 1 has a mirrored rotation .* axis convention"),
        ("last row", r"f.json: camera 1 has a transform whose last row is \[0.5"),
        ("focal", r"f.json: camera 1 has focal length .* expected both > 0"),
        ("infinite focal", r"f.json: camera 1 has NaN or infinite"),
        ("intrinsics row", r"f.json: camera 1 has intrinsics whose last row"),
        ("missing", r"f.json: 3 camera poses but 2 intrinsics"),
        ("size", r"f.json: images are 0x10"),
    ],
)
def test_validation_names_file_camera_and_fault(what: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        corrupted(what).validate("f.json")


def test_valid_cameras_pass_in_single_precision() -> None:
    cameras = random_cameras(6, extent=100.0).to(torch.float32)
    assert cameras.validate("anywhere") is cameras
