"""COLMAP models, in and out, through pycolmap.

COLMAP's axes and pixel centres are ours: `cam_from_world` is `world_to_camera`, and the centre of the
first pixel is at (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, pixel_centres
from data.clips import Clip
from data.importers.colmap_files import check_binary_model
from data.importers.distortion import Distortion
from data.importers.fresh_folder import fresh_folder
from data.importers.images import natural_order, write_image
from data.importers.posed_images import (
    PosedImage,
    Progress,
    load_posed_images,
    sparse_depth,
    spread,
)
from data.importers.recorded_path import RecordedPath
from data.importers.triangulation import triangulated_points

if TYPE_CHECKING:
    import pycolmap

DISTORTION_PARAMETERS = {
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
}
"""What follows focal lengths and principal point in a camera's parameters, by model."""

PLACES = (".", "sparse/0", "sparse")
"""Where a model may lie below the folder that is named."""


def read_colmap(
    model_dir: Path | str,
    images_dir: Path | str,
    height: int,
    width: int,
    *,
    max_frames: int | None = None,
    progress: Progress | None = None,
) -> Clip:
    """The registered images of a COLMAP model (binary or text), in order of their names.

    model_dir: holds cameras, images and points3D, itself or in `sparse/0` or `sparse`.
    max_frames: at most so many, evenly spread.

    As `clip_from_reconstruction`. Raises UserError where the model or an image is missing or damaged,
    or the lens model is not one of `DISTORTION_PARAMETERS`.
    """
    images_dir = Path(images_dir).absolute()
    return clip_from_reconstruction(
        _read_model(find_model(Path(model_dir))),
        images_dir,
        height,
        width,
        source=images_dir.parent.name if images_dir.name == "images" else images_dir.name,
        max_frames=max_frames,
        progress=progress,
    )


def read_colmap_path(model_dir: Path | str) -> RecordedPath:
    """The camera path of a COLMAP model (binary or text): its registered images in order of their names.

    model_dir: as for `read_colmap`. Images are not needed, and lens distortion is no part of a path.
    Raises UserError where the model is missing or damaged.
    """
    source = str(model_dir)
    model = _read_model(find_model(Path(model_dir)))
    by_name = _registered(model, source)
    transforms, intrinsics = [], []
    for name in sorted(by_name, key=natural_order):
        camera = model.cameras[by_name[name].camera_id]
        sides = torch.tensor([[camera.width], [camera.height], [1]], dtype=torch.float64)
        transforms.append(_world_to_camera(by_name[name]))
        intrinsics.append(torch.from_numpy(camera.calibration_matrix()) / sides)
    return RecordedPath.from_world_to_camera(
        source, torch.stack(transforms), torch.stack(intrinsics)
    )


def clip_from_reconstruction(
    reconstruction: pycolmap.Reconstruction,
    images_dir: Path,
    height: int,
    width: int,
    *,
    source: str,
    names: Sequence[str] | None = None,
    max_frames: int | None = None,
    progress: Progress | None = None,
) -> Clip:
    """Registered images as frames of one size, with float64 cameras in the model's axes and units.

    names: images to take, in this order; None takes all by name, with numbers in counting order.

    Frames are undistorted, resized and centre-cropped, intrinsics with them. `depth` is sparse: the
    z-depth of the points that COLMAP triangulated in a frame at the pixels where they fall, 0
    elsewhere; None where there is no point. The caller normalises.
    """
    by_name = _registered(reconstruction, source)
    if names is None:
        names = sorted(by_name, key=natural_order)
    registered = [by_name[name] for name in names]
    posed = [
        _posed_image(image, reconstruction.cameras[image.camera_id], images_dir, source)
        for image in registered
    ]
    transforms = torch.stack([image.world_to_camera for image in posed])
    unit = torch.eye(3, dtype=torch.float64).expand(len(posed), 3, 3)
    Cameras(transforms, unit, 1, 1).validate(source)
    chosen = spread(len(posed), max_frames, source)
    frames, cameras = load_posed_images(
        [posed[i] for i in chosen], height, width, progress=progress
    )
    points = [triangulated_points(reconstruction, registered[i]) for i in chosen]
    return Clip(
        frames=frames,
        cameras=cameras.validate(source),
        source=source,
        num_path_frames=len(chosen),
        depth=sparse_depth(cameras, points),
    )


def write_colmap(clip: Clip, folder: Path | str, *, points_per_frame: int = 500) -> None:
    """Writes `folder/images/*.png` and the binary model `folder/sparse/0`, in scene units.

    points_per_frame: about so many 3D points are taken from the depth of each frame, where it is known.

    Raises UserError where the folder is not empty or can't be written.
    """
    import pycolmap

    folder = Path(folder)
    cameras = clip.cameras.to(torch.float64).to("cpu")
    model = pycolmap.Reconstruction()
    for i in range(clip.num_frames):
        matrix = cameras.intrinsics[i]
        focal_and_center = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
        camera = pycolmap.Camera(
            camera_id=i + 1,
            model="PINHOLE",
            width=cameras.width,
            height=cameras.height,
            params=[float(value) for value in focal_and_center],
        )
        model.add_camera_with_trivial_rig(camera)
        pixels, points, colors = _points_of_frame(clip, cameras, i, points_per_frame)
        image = pycolmap.Image(
            name=f"{i:05d}.png", keypoints=pixels, camera_id=i + 1, image_id=i + 1
        )
        pose = pycolmap.Rigid3d(cameras.world_to_camera[i, :3].numpy())
        model.add_image_with_trivial_frame(image, pose)
        for index, (point, color) in enumerate(zip(points, colors, strict=True)):
            track = pycolmap.Track()
            track.add_element(i + 1, index)
            model.add_point3D(point, track, color)
    with fresh_folder(folder, clip.frames.numel()) as temporary:
        (temporary / "images").mkdir()
        (temporary / "sparse/0").mkdir(parents=True)
        for i, frame in enumerate(clip.frames):
            write_image(frame, temporary / f"images/{i:05d}.png")
        model.write_binary(temporary / "sparse/0")


def find_model(folder: Path) -> Path:
    """The folder at or below `folder` that holds a COLMAP model."""
    for place in PLACES:
        for suffix in ("bin", "txt"):
            names = [f"{kind}.{suffix}" for kind in ("cameras", "images", "points3D")]
            if all((folder / place / name).is_file() for name in names):
                return folder / place
    raise UserError(
        f"{folder}: no COLMAP model here or in sparse/0; expected cameras, images and points3D"
        " (.bin or .txt)"
    )


def _read_model(folder: Path) -> pycolmap.Reconstruction:
    import pycolmap

    check_binary_model(folder)
    try:
        return pycolmap.Reconstruction(folder)
    except (ValueError, LookupError, RuntimeError) as error:
        raise UserError(f"{folder}: COLMAP can't read this model ({error})") from error


def _registered(reconstruction: pycolmap.Reconstruction, source: str) -> dict[str, pycolmap.Image]:
    """The images with a known camera, by name; raises UserError where there is none."""
    images = {image.name: image for image in reconstruction.images.values() if image.has_pose}
    if not images:
        raise UserError(f"{source}: the model has no image with a known camera")
    return images


def _world_to_camera(image: pycolmap.Image) -> Float[Tensor, "4 4"]:
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3] = torch.from_numpy(image.cam_from_world().matrix())
    return transform


def _posed_image(
    image: pycolmap.Image, camera: pycolmap.Camera, images_dir: Path, source: str
) -> PosedImage:
    names = DISTORTION_PARAMETERS.get(camera.model_name)
    if names is None:
        raise UserError(
            f"{source}: {image.name} has camera model {camera.model_name}, which is not supported"
            f" (only {', '.join(DISTORTION_PARAMETERS)}): undistort the images with COLMAP first"
        )
    extra = [float(camera.params[i]) for i in camera.extra_params_idxs()]
    return PosedImage(
        path=images_dir / image.name,
        world_to_camera=_world_to_camera(image),
        intrinsics=torch.from_numpy(camera.calibration_matrix()),
        height=camera.height,
        width=camera.width,
        distortion=Distortion(**dict(zip(names, extra, strict=True))),
    )


def _points_of_frame(
    clip: Clip, cameras: Cameras, view: int, most: int
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """Pixels, world points and colours on an even grid of a frame's known depths."""
    centres = pixel_centres(cameras.height, cameras.width)
    depth = torch.zeros(cameras.height, cameras.width) if clip.depth is None else clip.depth[view]
    known = torch.nonzero(depth.flatten() > 0)[:, 0].cpu()
    known = known[:: max(1, math.ceil(len(known) / max(most, 1)))][:most]
    pixels = centres.flatten(0, 1)[known]
    z = depth.flatten().cpu()[known].double()
    local = (pixels @ torch.linalg.inv(cameras.intrinsics[view]).mT) * z[:, None]
    transform = cameras.camera_to_world[view]
    points = local @ transform[:3, :3].mT + transform[:3, 3]
    colors = clip.frames[view].flatten(1)[:, known.to(clip.frames.device)].mT
    levels = (colors.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels[:, :2].numpy(), points.numpy(), levels.cpu().numpy()
