"""3D points from images whose cameras are known, so that a capture without points gets its scene scale."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import invert_rigid
from data.importers.features import find_features, match_features, quiet_colmap
from data.importers.images import to_picture
from data.importers.posed_images import PosedImage, Progress, load_posed_image

if TYPE_CHECKING:
    import pycolmap

MAX_FEATURES = 2048

MAX_SIDE = 512
"""Features are sought in images made this small: the scale of a scene needs no more."""

MAX_EXHAUSTIVE = 20
"""Up to so many images every pair is matched."""

NUM_NEIGHBOURS = 10
"""Of more images, each is matched with so many of the nearest that look its way."""

MIN_COSINE = 0.5
"""Two cameras look the same way when their lines of sight are within 60 degrees."""


def triangulate(
    images: Sequence[PosedImage], *, seed: int = 0, progress: Progress | None = None
) -> list[Float[Tensor, "_ 3"]]:
    """For each image the world points that pycolmap triangulates from its features, float64; none where
    it shares too few with others. Cameras stay exactly as they are given."""
    import pycolmap

    with tempfile.TemporaryDirectory(prefix="triangulation-") as folder, quiet_colmap():
        work = Path(folder)
        cameras = _write_copies(images, work / "images", progress)
        names = list(cameras)
        database = work / "features.db"
        find_features(
            database,
            work / "images",
            names,
            camera_model="PINHOLE",
            one_camera_a_folder=False,
            max_features=MAX_FEATURES,
            progress=progress,
        )
        transforms = torch.stack([image.world_to_camera for image in images])
        model = _known_cameras(database, cameras, dict(zip(names, transforms, strict=True)))
        pairs = [(names[i], names[j]) for i, j in _neighbours(transforms)]
        match_features(database, pairs, seed=seed, progress=progress)
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = 1
        options.extract_colors = False
        options.random_seed = seed
        options.triangulation.random_seed = seed
        (work / "model").mkdir()
        model = pycolmap.triangulate_points(
            model, database, work / "images", work / "model", options=options
        )
        by_name = {image.name: image for image in model.images.values()}
        return [triangulated_points(model, by_name[name]) for name in names]


def triangulated_points(
    model: pycolmap.Reconstruction, image: pycolmap.Image
) -> Float[Tensor, "_ 3"]:
    """World points of a model that an image of it sees, float64."""
    points = [
        torch.from_numpy(model.points3D[observation.point3D_id].xyz)
        for observation in image.get_observation_points2D()
    ]
    return torch.stack(points) if points else torch.zeros(0, 3, dtype=torch.float64)


def _write_copies(
    images: Sequence[PosedImage], folder: Path, progress: Progress | None
) -> dict[str, pycolmap.Camera]:
    """Undistorted copies of at most `MAX_SIDE`; their names, with the pinhole cameras that took them."""
    import pycolmap

    folder.mkdir()
    cameras = {}
    for i, image in enumerate(images):
        scale = min(1.0, MAX_SIDE / max(image.height, image.width))
        height, width = round(image.height * scale), round(image.width * scale)
        frame, matrix = load_posed_image(image, height, width)
        name = f"{i:06d}.jpg"
        to_picture(frame).save(folder / name, quality=95, subsampling=0)
        focal_and_center = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        cameras[name] = pycolmap.Camera(
            model="PINHOLE",
            width=width,
            height=height,
            params=[float(value) for value in focal_and_center],
        )
        cameras[name].has_prior_focal_length = True
        if progress is not None:
            progress("read images", i + 1, len(images))
    return cameras


def _known_cameras(
    database: Path,
    cameras: dict[str, pycolmap.Camera],
    world_to_camera: dict[str, Float[Tensor, "4 4"]],
) -> pycolmap.Reconstruction:
    """A model of the database's images with these cameras, which the database gets as well."""
    import pycolmap

    model = pycolmap.Reconstruction()
    entries = pycolmap.Database.open(database)
    for entry in entries.read_all_images():
        camera = cameras[entry.name]
        camera.camera_id = entry.camera_id
        entries.update_camera(camera)
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=entry.name, camera_id=entry.camera_id, image_id=entry.image_id)
        pose = pycolmap.Rigid3d(world_to_camera[entry.name][:3].numpy())
        model.add_image_with_trivial_frame(image, pose)
    entries.close()
    return model


def _neighbours(world_to_camera: Float[Tensor, "t 4 4"]) -> list[tuple[int, int]]:
    """Pairs of images that are likely to see the same things."""
    count = len(world_to_camera)
    camera_to_world = invert_rigid(world_to_camera)
    positions, sight = camera_to_world[:, :3, 3], camera_to_world[:, :3, 2]
    if count <= MAX_EXHAUSTIVE:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    distance = torch.cdist(positions, positions)
    distance[sight @ sight.mT < MIN_COSINE] = torch.inf
    distance.fill_diagonal_(torch.inf)
    nearest = distance.topk(NUM_NEIGHBOURS, largest=False)
    return sorted(
        {
            (min(i, j), max(i, j))
            for i in range(count)
            for j, far in zip(nearest.indices[i].tolist(), nearest.values[i].tolist(), strict=True)
            if far < torch.inf
        }
    )
