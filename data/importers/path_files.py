"""Camera paths from files of any known format, placed in front of a photograph."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from data.camera_interpolation import PositionCurve
from data.camera_paths import EASINGS, PATHS
from data.cameras import Cameras
from data.importers.colmap import read_colmap_path
from data.importers.json_files import read_json_object
from data.importers.nerfstudio import FILE_NAMES, read_transforms_path
from data.importers.path_json import (
    OUR_FORMAT,
    read_nerfstudio_path,
    read_our_path,
)
from data.importers.path_text import (
    VIEWCRAFTER_ELEVATION_DEG,
    looks_like_viewcrafter,
    read_lines,
    read_realestate10k,
    read_viewcrafter,
)
from data.importers.recorded_path import RecordedPath

FORMATS: dict[str, tuple[str, str]] = {
    "stillscape": ("*.json", "our own, as `generate` writes it"),
    "realestate10k": ("*.txt", "19 numbers a line; CameraCtrl's pose files too"),
    "viewcrafter": ("*.txt", "three lines: phi, theta, r"),
    "nerfstudio": ("*.json", "a camera path that nerfstudio's viewer exported"),
    "transforms": ("transforms.json", "cameras of a capture in nerfstudio's format"),
    "colmap": ("folder", "a COLMAP model: cameras, images, points3D (.bin or .txt)"),
}
"""What a file of each format is called, and what is in it."""


def load_camera_path(
    file: Path | str,
    base: Cameras,
    num_views: int | None = None,
    *,
    format: str | None = None,
    scale: float | int | None = None,
    positions: PositionCurve = "cubic",
    elevation_deg: float | int = VIEWCRAFTER_ELEVATION_DEG,
) -> Cameras:
    """The path in a file or folder, moved so that its first camera is `base`.

    base: one view, in scene units (median depth 1), as `data.camera_paths.make_path` takes it.
    num_views: so many views evenly over the path's time; None takes the file's own (25 for ViewCrafter).
    format: one of `FORMATS`; None looks at the file.
    scale: how many of the file's units of length (its metres, if it is in metres) make one scene unit;
        None takes what the file says, and 1 where it says nothing.
    positions: how camera centres go between the file's views; rotations always turn at even speed.
    elevation_deg: how far the photograph looks down; ViewCrafter's files alone need it.

    Focal lengths are the base's, zoomed as the file's are since its first view. Raises UserError that names
    the file and what is wrong in it: one view only, NaN, a focal length of zero, another convention, a jump.
    """
    if base.world_to_camera.shape != (1, 4, 4):
        raise UserError(
            f"a camera path starts from 1 camera, found shape {list(base.world_to_camera.shape)}"
        )
    if num_views is not None and num_views < 2:
        raise UserError(f"a camera path has at least 2 views, {num_views} were asked for")
    path = read_camera_path(file, format=format, num_views=num_views, elevation_deg=elevation_deg)
    return path.placed_at(base, num_views, scale=scale, positions=positions)


def read_camera_path(
    file: Path | str,
    *,
    format: str | None = None,
    num_views: int | None = None,
    elevation_deg: float | int = VIEWCRAFTER_ELEVATION_DEG,
) -> RecordedPath:
    """The path as the file has it, in its own world axes and units.

    num_views: for formats that draw a curve, without views of their own. Others as for `load_camera_path`.
    """
    path = Path(file)
    found = format or find_format(path)
    if found not in FORMATS:
        raise UserError(f"there is no camera path format {found!r} (known: {', '.join(FORMATS)})")
    if found == "colmap":
        return read_colmap_path(path)
    if found == "transforms":
        return read_transforms_path(path)
    if found == "realestate10k":
        return read_realestate10k(path)
    if found == "viewcrafter":
        return read_viewcrafter(path, num_views, elevation_deg)
    content = read_json_object(path, "a JSON object with a camera path")
    return (read_our_path if found == "stillscape" else read_nerfstudio_path)(content, path)


def find_format(path: Path) -> str:
    """The format of a file or folder, by what is in it; raises UserError where there is none."""
    if path.is_dir():
        has_transforms = any((path / name).is_file() for name in FILE_NAMES)
        return "transforms" if has_transforms else "colmap"
    if path.suffix.lower() != ".json":
        lines = read_lines(path)
        return "viewcrafter" if looks_like_viewcrafter(lines) else "realestate10k"
    content = read_json_object(path, "a JSON object with a camera path")
    if content.get("format") == OUR_FORMAT:
        return "stillscape"
    if "camera_path" in content:
        return "nerfstudio"
    if "frames" in content:
        return "transforms"
    raise UserError(
        f"{path}: holds no camera path; expected the key 'camera_path' (nerfstudio), 'frames'"
        f" (transforms.json), or 'format': '{OUR_FORMAT}'"
    )


def describe_paths() -> str:
    """What `--list-paths` prints: the named paths with their amplitudes, easings, and file formats."""
    rows = [("path", "what the camera does", "amplitude")]
    for name, path in PATHS.items():
        amplitude = f"{path.amplitude:g} {path.unit}, up to {path.limit:g}"
        rows.append((name, path.description, amplitude))
    files = [("file", "format", "what is in it")]
    files += [(pattern, name, content) for name, (pattern, content) in FORMATS.items()]
    notes = textwrap.dedent(
        f"""\
        One scene unit is the median depth of the photograph. A negative amplitude goes the other way.
        Easing: {", ".join(EASINGS)}. Paths can be joined; each starts where the last one ended.
        A path from a file starts at the photograph, is spread evenly over the video, and keeps the file's
        unit of length unless a scale says how many of those make one scene unit."""
    )
    return f"{_columns(rows)}\n\n{_columns(files)}\n\n{notes}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
