"""COLMAP models in and out, with pycolmap's own projection as the truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.colmap import read_colmap, write_colmap
from data.importers.images import write_image
from data.importers.posed_images import sparse_depth

HEIGHT, WIDTH = 48, 64

PARAMETERS = {
    "SIMPLE_PINHOLE": [70.0, 30, 26],
    "PINHOLE": [70.0, 66, 30, 26],
    "SIMPLE_RADIAL": [70.0, 30, 26, 0.02],
    "RADIAL": [70.0, 30, 26, 0.02, -0.01],
    "OPENCV": [70.0, 66, 30, 26, 0.02, -0.01, 0.003, 0.004],
    "OPENCV_FISHEYE": [70.0, 66, 30, 26, 0.0, 0.0, 0.0, 0.0],
}


def synthetic(model: str = "SIMPLE_PINHOLE", seed: int = 0) -> pycolmap.Reconstruction:
    """A model of 5 images around 40 points, made and projected by pycolmap."""
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs = 1
    options.num_frames_per_rig = 5
    options.num_points3D = 40
    options.num_points2D_without_point3D = 0
    options.camera_width, options.camera_height = WIDTH, HEIGHT
    options.camera_model_id = getattr(pycolmap.CameraModelId, model)
    options.camera_params = PARAMETERS[model]
    return pycolmap.synthesize_dataset(options)


def on_disk(model: pycolmap.Reconstruction, folder: Path, text: bool = False) -> tuple[Path, Path]:
    sparse, images = folder / "sparse/0", folder / "images"
    sparse.mkdir(parents=True)
    images.mkdir()
    (model.write_text if text else model.write_binary)(sparse)
    generator = torch.Generator().manual_seed(0)
    for image in model.images.values():
        write_image(torch.rand(3, HEIGHT, WIDTH, generator=generator), images / image.name)
    return sparse, images


def by_name(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    return sorted(model.images.values(), key=lambda image: image.name)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("lens", ["SIMPLE_PINHOLE", "PINHOLE"])
def test_projection_is_pycolmaps(tmp_path: Path, lens: str, text: bool) -> None:
    model = synthetic(lens)
    clip = read_colmap(*on_disk(model, tmp_path, text), HEIGHT, WIDTH)
    points = np.stack([point.xyz for point in model.points3D.values()])
    pixels, depths = clip.cameras.project(torch.from_numpy(points))
    for view, image in enumerate(by_name(model)):
        expected = np.stack([image.project_point(point) for point in points])
        np.testing.assert_allclose(pixels[view].numpy(), expected, atol=1e-6)
        local = np.stack([image.cam_from_world() * point for point in points])
        np.testing.assert_allclose(depths[view].numpy(), local[:, 2], atol=1e-6)
        np.testing.assert_allclose(
            clip.cameras.positions[view].numpy(), image.projection_center(), atol=1e-6
        )


@pytest.mark.parametrize("lens", ["SIMPLE_RADIAL", "RADIAL", "OPENCV"])
def test_undistorted_cameras_see_along_pycolmaps_rays(tmp_path: Path, lens: str) -> None:
    """Our pinhole pixel of a point has the direction that pycolmap undistorts its own pixel to."""
    model = synthetic(lens)
    clip = read_colmap(*on_disk(model, tmp_path), HEIGHT, WIDTH)
    points = np.stack([point.xyz for point in model.points3D.values()])
    pixels, _ = clip.cameras.project(torch.from_numpy(points))
    for view, image in enumerate(by_name(model)):
        camera = model.cameras[image.camera_id]
        distorted = np.stack([image.project_point(point) for point in points])
        directions = camera.cam_from_img(distorted)
        matrix = clip.cameras.intrinsics[view].numpy()
        expected = directions * [matrix[0, 0], matrix[1, 1]] + matrix[:2, 2]
        np.testing.assert_allclose(pixels[view].numpy(), expected, atol=1e-5)


def test_sparse_depth_is_pycolmaps_z_at_the_observed_pixels(tmp_path: Path) -> None:
    model = synthetic()
    clip = read_colmap(*on_disk(model, tmp_path), HEIGHT, WIDTH)
    assert clip.depth is not None
    for view, image in enumerate(by_name(model)):
        expected = np.zeros((HEIGHT, WIDTH))
        for observation in image.get_observation_points2D():
            depth = (image.cam_from_world() * model.points3D[observation.point3D_id].xyz)[2]
            column, row = math.floor(observation.x()), math.floor(observation.y())
            before = expected[row, column]
            expected[row, column] = min(depth, before) if before else depth
        np.testing.assert_allclose(clip.depth[view].numpy(), expected, atol=1e-4)
    scale = clip.normalised().scale
    known = clip.depth[0][clip.depth[0] > 0]
    assert scale == pytest.approx(float(known.median()))


def test_sparse_depth_keeps_the_nearest_and_what_is_in_front() -> None:
    eye = torch.eye(4, dtype=torch.float64)[None]
    matrix = torch.tensor([[[10.0, 0, 5], [0, 10, 5], [0, 0, 1]]], dtype=torch.float64)
    cameras = Cameras(eye, matrix, 10, 10)
    points = torch.tensor([[0.0, 0, 4], [0, 0, 2], [0, 0, 3], [0, 0, -1], [9, 0, 1]]).double()
    depth = sparse_depth(cameras, [points])
    assert depth is not None
    assert depth[0, 5, 5] == 2 and int((depth > 0).sum()) == 1
    assert sparse_depth(cameras, [points[3:]]) is None


def test_frames_come_in_counting_order_and_spread(tmp_path: Path) -> None:
    model = synthetic()
    for image, number in zip(by_name(model), (10, 9, 8, 2, 1), strict=True):
        image.name = f"view_{number}.png"
    clip = read_colmap(*on_disk(model, tmp_path), HEIGHT, WIDTH, max_frames=3)
    wanted = [f"view_{number}.png" for number in (1, 8, 10)]
    by_number = {image.name: image.projection_center() for image in model.images.values()}
    np.testing.assert_allclose(
        clip.cameras.positions.numpy(), [by_number[name] for name in wanted], atol=1e-9
    )
    assert clip.source == tmp_path.name


def some_clip(with_depth: bool) -> Clip:
    rng = np.random.default_rng(0)
    camera_to_world = np.tile(np.eye(4), (3, 1, 1))
    camera_to_world[:, :3, :3] = Rotation.random(3, rng=rng).as_matrix()
    camera_to_world[:, :3, 3] = rng.uniform(-5, 5, (3, 3))
    intrinsics = np.tile([[60.0, 0, 30], [0, 50, 25], [0, 0, 1]], (3, 1, 1))
    cameras = Cameras.from_camera_to_world(
        torch.from_numpy(camera_to_world), torch.from_numpy(intrinsics), HEIGHT, WIDTH
    )
    frames = torch.from_numpy(rng.integers(0, 256, (3, 3, HEIGHT, WIDTH))).float() / 255
    depth = torch.from_numpy(rng.uniform(1, 3, (3, HEIGHT, WIDTH))).float()
    return Clip(frames, cameras, "made", 3, depth=depth if with_depth else None)


@pytest.mark.parametrize("with_depth", [False, True])
def test_round_trip_to_1e_6(tmp_path: Path, with_depth: bool) -> None:
    clip = some_clip(with_depth)
    write_colmap(clip, tmp_path / "out", points_per_frame=100)
    again = read_colmap(tmp_path / "out", tmp_path / "out/images", HEIGHT, WIDTH)
    for name in ("world_to_camera", "intrinsics"):
        torch.testing.assert_close(
            getattr(again.cameras, name), getattr(clip.cameras, name), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(again.frames, clip.frames, atol=1e-6, rtol=0)
    if not with_depth:
        assert again.depth is None
        return
    assert again.depth is not None and clip.depth is not None
    known = again.depth > 0
    assert 80 <= int(known[0].sum()) <= 100
    torch.testing.assert_close(again.depth[known], clip.depth[known], atol=1e-5, rtol=0)


def test_written_points_have_the_colours_of_their_pixels(tmp_path: Path) -> None:
    clip = some_clip(with_depth=True)
    write_colmap(clip, tmp_path / "out", points_per_frame=50)
    model = pycolmap.Reconstruction(tmp_path / "out/sparse/0")
    for point in list(model.points3D.values())[::10]:
        view = point.track.elements[0].image_id
        x, y = model.images[view].project_point(point.xyz)
        colour = clip.frames[view - 1, :, math.floor(y), math.floor(x)] * 255
        np.testing.assert_allclose(point.color, colour, atol=0.51)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D", "rigs", "frames"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_binary_model_is_named(tmp_path: Path, name: str, kept: float) -> None:
    """pycolmap itself reads some of these as if they were whole, and hangs on others."""
    sparse, images = on_disk(synthetic(), tmp_path)
    path = sparse / f"{name}.bin"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=rf"{name}.bin is damaged: it ends in the middle"):
        read_colmap(sparse, images, HEIGHT, WIDTH)
    path.write_bytes(content + b"more")
    with pytest.raises(UserError, match=rf"{name}.bin is damaged: its records end at byte"):
        read_colmap(sparse, images, HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["cameras", "images", "frames"])
def test_a_damaged_text_model_is_refused(tmp_path: Path, name: str) -> None:
    sparse, images = on_disk(synthetic(), tmp_path, text=True)
    (sparse / f"{name}.txt").write_text("something else\n")
    with pytest.raises(UserError, match="COLMAP can't read this model"):
        read_colmap(sparse, images, HEIGHT, WIDTH)


def test_unsupported_lenses_are_refused(tmp_path: Path) -> None:
    sparse, images = on_disk(synthetic("OPENCV_FISHEYE"), tmp_path)
    with pytest.raises(UserError, match=r"OPENCV_FISHEYE, which is not supported .* undistort"):
        read_colmap(sparse, images, HEIGHT, WIDTH)


def test_missing_models_and_images_are_named(tmp_path: Path) -> None:
    sparse, images = on_disk(synthetic(), tmp_path)
    with pytest.raises(UserError, match=r"images: no COLMAP model here or in sparse/0"):
        read_colmap(images, images, HEIGHT, WIDTH)
    assert read_colmap(tmp_path, images, HEIGHT, WIDTH).num_frames == 5, "found in sparse/0"
    next(images.iterdir()).unlink()
    with pytest.raises(UserError, match="1 of 5 images are missing; the first is"):
        read_colmap(sparse, images, HEIGHT, WIDTH)


def test_a_model_without_registered_images(tmp_path: Path) -> None:
    model = pycolmap.Reconstruction()
    (tmp_path / "sparse").mkdir()
    model.write_binary(tmp_path / "sparse")
    with pytest.raises(UserError, match="no image with a known camera"):
        read_colmap(tmp_path, tmp_path, HEIGHT, WIDTH)


def test_nan_poses_are_refused(tmp_path: Path) -> None:
    model = synthetic()
    frame = model.frames[2]
    frame.rig_from_world = pycolmap.Rigid3d(frame.rig_from_world.rotation, [math.nan, 0, 0])
    with pytest.raises(UserError, match=r"camera \d has NaN"):
        read_colmap(*on_disk(model, tmp_path), HEIGHT, WIDTH)
