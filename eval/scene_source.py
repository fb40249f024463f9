"""What a command's SCENE argument names: the file of Gaussians, and the cameras that it was made from, where known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from configs.errors import UserError
from data.cameras import Cameras
from data.importers.json_files import read_json_object
from data.importers.path_files import find_format, read_camera_path
from models.gaussians import Gaussians
from models.scenes.files import load_scene

SCENE_NAMES = ("scene.ply", "scene.spz")
CAMERAS_NAME = "camera_path.json"
STAND_IN_HEIGHT = 256
"""Of the pictures of a path whose file tells no size [px]."""


@dataclass(frozen=True)
class SceneSource:
    """A scene with its cameras. cameras_file: where they came from; None where there are none."""

    file: Path
    gaussians: Gaussians
    cameras: Cameras | None
    cameras_file: Path | None


def open_scene(scene: Path, cameras: Path | None = None) -> SceneSource:
    """The scene in a file, or in a folder that one of our commands wrote.

    cameras: a path file in the scene's axes and unit; None takes `CAMERAS_NAME` beside the scene, if it is there.
    Raises UserError for what is missing, and as the readers do.
    """
    file = scene
    if scene.is_dir():
        found = [scene / name for name in SCENE_NAMES if (scene / name).is_file()]
        if not found:
            raise UserError(f"{scene}: holds no scene; expected {' or '.join(SCENE_NAMES)} in it")
        file = found[0]
    gaussians = load_scene(file)
    if cameras is None and (file.parent / CAMERAS_NAME).is_file():
        cameras = file.parent / CAMERAS_NAME
    return SceneSource(file, gaussians, None if cameras is None else read_cameras(cameras), cameras)


def read_cameras(file: Path) -> Cameras:
    """The cameras of a path file as they are, in the file's own axes and unit, float32.

    The image size is the file's; where its format has none, `STAND_IN_HEIGHT` and what square pixels make of it.
    Raises UserError for what is wrong with it, and for a file without focal lengths.
    """
    path = read_camera_path(file)
    if path.intrinsics is None:
        raise UserError(
            f"{file}: tells no focal lengths; expected a path file with intrinsics, such as the {CAMERAS_NAME} that"
            " generate writes"
        )
    shares = path.intrinsics
    height, width = STAND_IN_HEIGHT, 0
    if file.is_file() and find_format(file) == "stillscape":
        content = read_json_object(file, "a camera path")
        height, width = int(content["height"]), int(content["width"])
    width = width or max(1, round(height * float(shares[0, 1, 1] / shares[0, 0, 0])))
    sides = torch.tensor([[width], [height], [1]], dtype=torch.float64)
    cameras = Cameras(path.world_to_camera, shares * sides, height, width)
    return cameras.validate(str(file)).to(torch.float32)
