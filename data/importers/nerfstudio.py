"""nerfstudio's and NeRF-synthetic's `transforms.json`, in and out.

The file holds camera-to-world transforms in OpenGL camera axes (x right, y up, z backward); they
become OpenCV's here and nowhere else. World axes and unit of length stay the file's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, invert_rigid
from data.clips import Clip
from data.importers.distortion import Distortion
from data.importers.fresh_folder import fresh_folder
from data.importers.images import IMAGE_SUFFIXES, WHITE, Color, image_size, write_image
from data.importers.json_files import number, read_json_object, transform_matrix
from data.importers.posed_images import (
    PosedImage,
    Progress,
    load_posed_images,
    nearest_rigid,
    sparse_depth,
    spread,
)
from data.importers.recorded_path import RecordedPath
from data.importers.triangulation import triangulate

OPENGL_TO_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Flips the y and z axes of a camera; its own inverse."""

FILE_NAMES = ("transforms.json", "transforms_train.json")

PERSPECTIVE_MODELS = {
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "PERSPECTIVE",
}

OUR_KEY = "stillscape"
"""Under this key of the file we keep what a clip has and the format does not."""


def read_nerfstudio(
    path: Path | str,
    height: int,
    width: int,
    *,
    max_frames: int | None = None,
    background: Color = WHITE,
    apply_masks: bool = False,
    find_depth: bool = False,
    progress: Progress | None = None,
) -> Clip:
    """The clip of a `transforms.json` (or of the folder that holds one), in the file's order.

    Frames are undistorted, resized and centre-cropped to `height` x `width`, intrinsics with them.
    Cameras are float64, in the file's world axes and units: the caller normalises. Depth maps and point
    clouds that the file may name are not read.

    max_frames: at most so many, evenly spread over the file.
    background: colour in [0, 1] behind transparent pixels and outside of masks.
    apply_masks: paint what a frame's `mask_path` leaves out in `background`; without, masks are unused.

    find_depth: triangulate features to give the clip a sparse depth (0 where unknown; None where there
        is no match at all), from which `Clip.normalised` takes the true scene scale instead of a guess.
        About half a second an image on one core.

    Intrinsics (`fl_x fl_y cx cy w h`, `camera_angle_x`, `k1 k2 k3 p1 p2`) are taken from the frame, else
    from the whole file. Raises UserError for everything that is wrong with the file or its images.
    """
    path = _find_file(Path(path))
    content, entries, world_to_camera = _read_cameras(path)
    ours = _our_content(content, len(entries), path)
    chosen = spread(len(entries), max_frames, str(path))
    images = [
        _posed_image(entries[i], content, world_to_camera[i], path.parent, f"{path}: frame {i}")
        for i in chosen
    ]
    frames, cameras = load_posed_images(
        images,
        height,
        width,
        background=background,
        apply_masks=apply_masks,
        progress=progress,
    )
    depth = None
    if find_depth:
        depth = sparse_depth(cameras, triangulate(images, progress=progress))
    return Clip(
        frames=frames,
        cameras=cameras.validate(str(path)),
        source=ours["source"],
        num_path_frames=sum(i < ours["num_path_frames"] for i in chosen),
        caption=ours["caption"],
        depth=depth,
        scale=ours["scale"],
    )


def read_posed_images(path: Path | str) -> list[PosedImage]:
    """The images that a `transforms.json` (or the folder that holds one) names, with their cameras, in its order.

    They are opened only for their size, and only where the file does not state it; so they may be missing.
    Raises UserError for everything that is wrong with the file.
    """
    path = _find_file(Path(path))
    content, entries, world_to_camera = _read_cameras(path)
    return [
        _posed_image(entry, content, world_to_camera[i], path.parent, f"{path}: frame {i}")
        for i, entry in enumerate(entries)
    ]


def read_transforms_path(path: Path | str) -> RecordedPath:
    """The camera path of a `transforms.json` (or of the folder that holds one), in the file's order.

    Images are opened only for their size, and only where the file does not state it. Lens distortion is
    no part of a path. Raises UserError for everything that is wrong with the file's cameras.
    """
    path = _find_file(Path(path))
    content, entries, camera_to_world = _read_transforms(path)
    num_views = _our_content(content, len(entries), path)["num_path_frames"]
    intrinsics = [
        _intrinsics_in_shares({**content, **entries[i]}, path.parent, f"{path}: frame {i}")
        for i in range(num_views)
    ]
    return RecordedPath.from_camera_to_world(
        str(path), camera_to_world[:num_views] @ OPENGL_TO_OPENCV, torch.stack(intrinsics)
    )


def native_size(path: Path | str) -> tuple[int, int]:
    """Height and width [px] of the first image of a `transforms.json` (or of the folder that holds one)."""
    path = _find_file(Path(path))
    content, entries, _ = _read_transforms(path)
    where = f"{path}: frame 0"
    values = {**content, **entries[0]}
    image_path = _image_path(values.get("file_path"), path.parent, where)
    height, width = image_size(image_path)
    stated_height, stated_width = _stated_size(values, image_path, where)
    # Cameras may be stated for the pixels as they are stored, which EXIF would turn.
    turned = (stated_height > stated_width) != (height > width)
    return (width, height) if turned else (height, width)


def write_nerfstudio(clip: Clip, folder: Path | str) -> None:
    """Writes `folder/transforms.json` and `folder/images/*.png` (8 bits a channel), in scene units.

    Depth is not written. Raises UserError where the folder is not empty or can't be written.
    """
    folder = Path(folder)
    camera_to_world = clip.cameras.camera_to_world.double().cpu() @ OPENGL_TO_OPENCV
    intrinsics = clip.cameras.intrinsics.double().cpu()
    frames = []
    for i in range(clip.num_frames):
        matrix = intrinsics[i]
        frames.append(
            {
                "file_path": f"images/{i:05d}.png",
                "fl_x": matrix[0, 0].item(),
                "fl_y": matrix[1, 1].item(),
                "cx": matrix[0, 2].item(),
                "cy": matrix[1, 2].item(),
                "transform_matrix": camera_to_world[i].tolist(),
            }
        )
    content = {
        "camera_model": "OPENCV",
        "w": clip.cameras.width,
        "h": clip.cameras.height,
        OUR_KEY: {
            "source": clip.source,
            "num_path_frames": clip.num_path_frames,
            "caption": clip.caption,
            "scale": clip.scale,
        },
        "frames": frames,
    }
    with fresh_folder(folder, clip.frames.numel()) as temporary:
        (temporary / "images").mkdir()
        for frame, entry in zip(clip.frames, frames, strict=True):
            write_image(frame, temporary / str(entry["file_path"]))
        (temporary / FILE_NAMES[0]).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; expected transforms.json or its folder")
    for name in FILE_NAMES:
        if (path / name).is_file():
            return path / name
    others = sorted(file.name for file in path.glob("*.json"))
    hint = f"; it has {', '.join(others)}: name one of them" if others else ""
    raise UserError(f"{path}: the folder has no {' or '.join(FILE_NAMES)}{hint}")


def _read_transforms(
    path: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]], Float[Tensor, "t 4 4"]]:
    """The file's content, its frames, and their camera-to-world transforms as the file has them."""
    content = read_json_object(path, "a JSON object with a list 'frames'")
    entries = content.get("frames")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a non-empty list under the key 'frames'")
    transforms = [_transform(entry, f"{path}: frame {i}") for i, entry in enumerate(entries)]
    return content, entries, torch.stack(transforms)


def _read_cameras(
    path: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]], Float[Tensor, "t 4 4"]]:
    """The file's content, its frames, and their world-to-camera transforms in OpenCV axes."""
    content, entries, camera_to_world = _read_transforms(path)
    cameras = _checked(camera_to_world @ OPENGL_TO_OPENCV, str(path))
    return content, entries, cameras.world_to_camera


def _transform(entry: Any, where: str) -> Float[Tensor, "4 4"]:
    """A frame's camera-to-world transform as the file has it."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object")
    rows = entry.get("transform_matrix")
    if rows is None:
        raise UserError(f"{where} has no 'transform_matrix'")
    return transform_matrix(rows, f"{where}: 'transform_matrix'")


def _checked(camera_to_world: Float[Tensor, "t 4 4"], source: str) -> Cameras:
    """Cameras of these OpenCV transforms, refused where they are not rigid, then made exactly so."""
    unit = torch.eye(3, dtype=torch.float64).expand(len(camera_to_world), 3, 3)
    # Validated as they are in the file: inverting would hide a wrong last row.
    Cameras(camera_to_world, unit, 1, 1).validate(source)
    return Cameras(invert_rigid(nearest_rigid(camera_to_world)), unit, 1, 1)


def _posed_image(
    entry: dict[str, Any],
    content: dict[str, Any],
    world_to_camera: Float[Tensor, "4 4"],
    folder: Path,
    where: str,
) -> PosedImage:
    """What one frame of the file says, the whole file's values standing in for those it lacks."""
    values = {**content, **entry}
    image_path = _image_path(values.get("file_path"), folder, where)
    height, width = _stated_size(values, image_path, where)
    mask = values.get("mask_path")
    if mask is not None and not isinstance(mask, str):
        raise UserError(f"{where}: 'mask_path' is {mask!r}, expected a path")
    return PosedImage(
        path=image_path,
        world_to_camera=world_to_camera,
        intrinsics=_intrinsics(values, height, width, where),
        height=height,
        width=width,
        distortion=_distortion(values, where),
        mask=None if mask is None else folder / mask,
    )


def _image_path(file_path: Any, folder: Path, where: str) -> Path:
    if not isinstance(file_path, str) or not file_path:
        raise UserError(f"{where} has no 'file_path'")
    path = folder / file_path.replace("\\", "/")
    if path.is_file() or path.suffix.lower() in IMAGE_SUFFIXES:
        return path
    # NeRF-synthetic leaves the extension out.
    candidates = [path.with_name(path.name + suffix) for suffix in sorted(IMAGE_SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _stated_size(values: Mapping[str, Any], image_path: Path, where: str) -> tuple[int, int]:
    """Height and width for which the intrinsics hold: the file's, else the image's own."""
    height, width = number(values, "h", where), number(values, "w", where)
    if height is None or width is None:
        return image_size(image_path)
    if height < 1 or width < 1:
        raise UserError(f"{where}: image size h={height:g}, w={width:g}; expected at least 1x1")
    return round(height), round(width)


def _intrinsics(
    values: Mapping[str, Any], height: int, width: int, where: str
) -> Float[Tensor, "3 3"]:
    focal_x = _focal(values, "fl_x", "camera_angle_x", width, where)
    focal_y = _focal(values, "fl_y", "camera_angle_y", height, where)
    if focal_x is None and focal_y is None:
        raise UserError(f"{where} has no focal length: expected 'fl_x' or 'camera_angle_x'")
    focal_x = focal_y if focal_x is None else focal_x
    focal_y = focal_x if focal_y is None else focal_y
    center_x, center_y = number(values, "cx", where), number(values, "cy", where)
    center_x = width / 2 if center_x is None else center_x
    center_y = height / 2 if center_y is None else center_y
    return torch.tensor(
        [[focal_x, 0, center_x], [0, focal_y, center_y], [0, 0, 1]], dtype=torch.float64
    )


def _intrinsics_in_shares(
    values: Mapping[str, Any], folder: Path, where: str
) -> Float[Tensor, "3 3"]:
    """Intrinsics as shares of the image's width and height."""
    if not {"fl_x", "fl_y", "cx", "cy"} & values.keys():
        # Angles alone mean the same at any size.
        return _intrinsics(values, 1, 1, where)
    stated = number(values, "h", where) and number(values, "w", where)
    image_path = folder if stated else _image_path(values.get("file_path"), folder, where)
    height, width = _stated_size(values, image_path, where)
    sides = torch.tensor([[width], [height], [1]], dtype=torch.float64)
    return _intrinsics(values, height, width, where) / sides


def _focal(
    values: Mapping[str, Any], focal_key: str, angle_key: str, side: int, where: str
) -> float | None:
    """Focal length [px] along one axis, given in pixels or as the full field of view [rad]."""
    focal = number(values, focal_key, where)
    if focal is not None:
        if focal <= 0:
            raise UserError(f"{where}: focal length {focal_key} is {focal:g} px, expected > 0")
        return focal
    angle = number(values, angle_key, where)
    if angle is None:
        return None
    if not 0 < angle < math.pi:
        raise UserError(f"{where}: {angle_key} is {angle:g} rad, expected between 0 and pi")
    return 0.5 * side / math.tan(0.5 * angle)


def _distortion(values: Mapping[str, Any], where: str) -> Distortion:
    model = values.get("camera_model", "OPENCV")
    fisheye = values.get("is_fisheye", False)
    if str(model).upper() not in PERSPECTIVE_MODELS or fisheye is not False:
        name = "is_fisheye" if fisheye is not False else f"camera_model {model!r}"
        raise UserError(
            f"{where}: {name} is not supported; expected a perspective camera"
            f" ({', '.join(sorted(PERSPECTIVE_MODELS))}): undistort the images first"
        )
    if number(values, "k4", where):
        raise UserError(
            f"{where}: distortion k4 is not supported (only k1, k2, k3, p1, p2): undistort the"
            " images first"
        )
    names = ("k1", "k2", "k3", "p1", "p2")
    return Distortion(**{name: number(values, name, where) or 0.0 for name in names})


def _our_content(content: dict[str, Any], num_frames: int, path: Path) -> dict[str, Any]:
    """What we keep beside the format, checked, with what stands in where the file is not ours."""
    ours: dict[str, Any] = {
        "source": path.absolute().parent.name,
        "num_path_frames": num_frames,
        "caption": "",
        "scale": 1.0,
    }
    found = content.get(OUR_KEY, {})
    if not isinstance(found, dict):
        raise UserError(f"{path}: '{OUR_KEY}' is not a JSON object")
    for key, stand_in in ours.items():
        value = found.get(key, stand_in)
        if type(value) is not type(stand_in):
            raise UserError(
                f"{path}: '{OUR_KEY}.{key}' is {value!r}, expected {stand_in!r} or such"
            )
        ours[key] = value
    if not 1 <= ours["num_path_frames"] <= num_frames or not 0 < ours["scale"] < math.inf:
        raise UserError(
            f"{path}: '{OUR_KEY}' says {ours['num_path_frames']} path frames of {num_frames} and"
            f" scale {ours['scale']}; expected 1 to {num_frames} and a positive number"
        )
    return ours
