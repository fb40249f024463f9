"""Camera paths in JSON: nerfstudio's camera paths, and a format of our own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.durable_files import write_durably
from data.importers.json_files import matrix, number, transform_matrix
from data.importers.nerfstudio import OPENGL_TO_OPENCV
from data.importers.recorded_path import RecordedPath

OUR_FORMAT, OUR_VERSION = "stillscape-camera-path", 1
OUR_AXES = "opencv"


def read_nerfstudio_path(content: dict[str, Any], path: Path) -> RecordedPath:
    """The path of a camera path that nerfstudio's viewer exported (key `camera_path`).

    Each view has `camera_to_world` (16 numbers by rows, OpenGL camera axes) and `fov`, the vertical
    field of view [degrees]; `aspect` is width by height. Views are even in time; the keyframes that the
    file also holds are not read, nor is `render_time`, the moment of a moving scene that a view shows.
    Units are those of nerfstudio's scene: give a scale.
    """
    if str(content.get("camera_type", "perspective")).lower() not in {"perspective", "pinhole"}:
        raise UserError(
            f"{path}: camera_type is {content['camera_type']!r}, expected 'perspective'; export the path"
            " again with a perspective camera"
        )
    entries = _views(content, "camera_path", path)
    transforms, intrinsics = [], []
    for i, entry in enumerate(entries):
        where = f"{path}: view {i}"
        values = entry.get("camera_to_world")
        if isinstance(values, list) and len(values) == 16:
            values = [values[row : row + 4] for row in range(0, 16, 4)]
        transforms.append(transform_matrix(values, f"{where}: 'camera_to_world'"))
        intrinsics.append(_intrinsics_of_fov(entry, where))
    return RecordedPath.from_camera_to_world(
        str(path), torch.stack(transforms) @ OPENGL_TO_OPENCV, torch.stack(intrinsics)
    )


def read_our_path(content: dict[str, Any], path: Path) -> RecordedPath:
    """The path of a file that `save_camera_path` wrote, or that a person wrote like it.

    In a file of one's own `unit` may also be "metres", with `metres_per_scene_unit` or a scale given when
    the path is used, and every view may have a `time`.
    """
    if content.get("version") != OUR_VERSION:
        raise UserError(
            f"{path}: version is {content.get('version')!r}, this program reads version {OUR_VERSION}"
        )
    if content.get("axes") != OUR_AXES:
        raise UserError(
            f"{path}: 'axes' is {content.get('axes')!r}, expected '{OUR_AXES}' (camera axes: x right, y"
            " down, z forward); convert the matrices"
        )
    height, width = (_side(content, key, path) for key in ("height", "width"))
    transforms, intrinsics, times = [], [], []
    for i, view in enumerate(_views(content, "views", path)):
        where = f"{path}: view {i}"
        transforms.append(
            transform_matrix(view.get("world_to_camera"), f"{where}: 'world_to_camera'")
        )
        intrinsics.append(matrix(view.get("intrinsics"), (3, 3), f"{where}: 'intrinsics'"))
        time = number(view, "time", where)
        times.append(float(i) if time is None else time)
    sides = torch.tensor([[width], [height], [1]], dtype=torch.float64)
    return RecordedPath.from_world_to_camera(
        str(path),
        torch.stack(transforms),
        torch.stack(intrinsics) / sides,
        torch.tensor(times, dtype=torch.float64),
        _our_scale(content, path),
    )


def save_camera_path(cameras: Cameras, path: Path | str) -> None:
    """Writes an unbatched path in our own format: JSON, every number as it is, in scene units.

    `load_camera_path` gives the same cameras again from the same first one, in float32 bit for bit.
    Raises UserError where a camera makes no sense or the file can't be written.
    """
    path = Path(path)
    exact = cameras.validate(str(path)).to(torch.float64).to("cpu")
    views = [
        {"world_to_camera": transform.tolist(), "intrinsics": intrinsics.tolist()}
        for transform, intrinsics in zip(exact.world_to_camera, exact.intrinsics, strict=True)
    ]
    content = {
        "format": OUR_FORMAT,
        "version": OUR_VERSION,
        "axes": OUR_AXES,
        "unit": "scene",
        "height": exact.height,
        "width": exact.width,
        "views": views,
    }
    write_durably(path, json.dumps(content, indent=1).encode())


def _views(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a non-empty list under the key '{key}'")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: view {i} is not a JSON object")
    return entries


def _intrinsics_of_fov(entry: dict[str, Any], where: str) -> Float[Tensor, "3 3"]:
    """Intrinsics in shares of the image, from the vertical field of view and the aspect (1 if unstated)."""
    fov, aspect = number(entry, "fov", where), number(entry, "aspect", where)
    aspect = 1.0 if aspect is None else aspect
    if fov is None or not 0 < fov < 180:
        raise UserError(
            f"{where}: 'fov' is {'missing' if fov is None else f'{fov:g}'}, expected the vertical field of"
            " view in degrees, between 0 and 180"
        )
    if not aspect > 0:
        raise UserError(f"{where}: 'aspect' is {aspect:g}, expected width divided by height, > 0")
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal / aspect, 0, 0.5], [0, focal, 0.5], [0, 0, 1]], dtype=torch.float64)


def _side(content: dict[str, Any], key: str, path: Path) -> float:
    side = number(content, key, str(path))
    if side is None or side < 1:
        raise UserError(f"{path}: '{key}' is {side}, expected the image's {key} in pixels")
    return side


def _our_scale(content: dict[str, Any], path: Path) -> float | None:
    """How many of the file's units make one scene unit; None where it does not say."""
    unit, metres = content.get("unit", "scene"), number(content, "metres_per_scene_unit", str(path))
    if unit not in {"scene", "metres"}:
        raise UserError(f"{path}: 'unit' is {unit!r}, expected 'scene' or 'metres'")
    if metres is not None and not metres > 0:
        raise UserError(f"{path}: 'metres_per_scene_unit' is {metres:g}, expected > 0")
    return metres if unit == "metres" else 1.0
