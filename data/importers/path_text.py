"""Camera paths in plain text: RealEstate10K's rows and ViewCrafter's three lines.

Both have been read off the projects' own code and documents: the loaders of RealEstate10K in CameraCtrl
(`inference.py`, `assets/pose_files`), and ViewCrafter's `docs/render_help.md` and `utils/pvd_utils.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import UnivariateSpline
from scipy.spatial.transform import Rotation
from torch import Tensor

from configs.errors import UserError
from data.importers.recorded_path import RecordedPath

MAX_BYTES = 64_000_000
REALESTATE10K_COLUMNS = 19
REALESTATE10K_ROW = (
    "19 numbers (timestamp, fx, fy, cx, cy as shares of the image size, two zeros, and the 3x4"
    " world-to-camera matrix by rows)"
)
LARGEST_FOCAL_SHARE = 20.0
"""A focal length of more image widths than this is one in pixels."""

VIEWCRAFTER_VIEWS = 25
"""ViewCrafter's video length."""
VIEWCRAFTER_ELEVATION_DEG = 5.0
"""ViewCrafter's default for how far its photograph looks down."""
VIEWCRAFTER_LENGTHS = range(2, 26)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path} is too large for a camera path ({path.stat().st_size:,} bytes)"
            )
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file, expected a camera path") from error
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from error
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(number, line) for number, line in lines if line]


def looks_like_viewcrafter(lines: list[tuple[int, str]]) -> bool:
    """Whether these are three lines of a few numbers, and not three of RealEstate10K's rows."""
    counts = [len(line.split()) for _, line in lines]
    return (
        len(counts) == 3
        and "://" not in lines[0][1]
        and set(counts) != {REALESTATE10K_COLUMNS}
        and all(_is_number(line.split()[0]) for _, line in lines)
    )


def read_realestate10k(path: Path) -> RecordedPath:
    """The path of a camera file of RealEstate10K, which CameraCtrl's pose files are too.

    One row a frame: timestamp [microseconds], focal lengths and principal point as shares of the image's
    width and height, two zeros, and the 3x4 world-to-camera matrix by rows, in OpenCV axes. A first line
    with the video's address may stand before them. Where all timestamps are the same, as in files made by
    hand, the rows are even in time. The unit of length is the dataset's own, a different one for each
    video: give a scale.
    """
    rows, numbers = realestate10k_rows(read_lines(path), path)
    intrinsics, transforms = realestate10k_cameras(
        rows[:, 1:], lambda row: f"{path}, line {numbers[row]}"
    )
    times = rows[:, 0]
    return RecordedPath.from_world_to_camera(
        str(path), transforms, intrinsics, None if len(times.unique()) == 1 else times
    )


def realestate10k_rows(
    lines: list[tuple[int, str]], path: Path
) -> tuple[Float[Tensor, "row 19"], list[int]]:
    """The numbers of a camera file's rows, float64, and the lines they stand in; an address before them is left out."""
    if lines and "://" in lines[0][1]:
        lines = lines[1:]
    rows = [_numbers(line, f"{path}, line {number}", REALESTATE10K_ROW) for number, line in lines]
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), REALESTATE10K_COLUMNS)
    return table, [number for number, _ in lines]


def realestate10k_cameras(
    rows: Float[Tensor, "row 18"], where: Callable[[int], str]
) -> tuple[Float[Tensor, "row 3 3"], Float[Tensor, "row 4 4"]]:
    """Intrinsics in shares of the image's size, and world-to-camera transforms, of rows without their timestamp.

    `where` names a row in the UserError about a focal length that is none.
    """
    rows = rows.to(torch.float64)
    for row, focal in enumerate(rows[:, :2]):
        if not bool((focal > 0).all()):
            raise UserError(
                f"{where(row)}: focal length is ({focal[0]:g}, {focal[1]:g}) image sizes, expected both > 0"
            )
        if bool((focal > LARGEST_FOCAL_SHARE).any()):
            raise UserError(
                f"{where(row)}: focal length {focal.max():g} seems to be in pixels; expected it as a share of the"
                " image's width or height"
            )
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(rows), 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = rows[:, 0], rows[:, 1]
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = rows[:, 2], rows[:, 3]
    transforms = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    transforms[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
    return intrinsics, transforms


def read_viewcrafter(
    path: Path,
    num_views: int | None = None,
    elevation_deg: float | int = VIEWCRAFTER_ELEVATION_DEG,
) -> RecordedPath:
    """The path of ViewCrafter's trajectory file, `num_views` (25) views of it.

    Three lines of 2 to 25 numbers that start with 0 and may differ in length: phi and theta [degrees] and
    r. The camera moves on a sphere around the point that the photograph shows in its middle, at distance 1
    here (a scene unit, the median depth; in ViewCrafter the depth of the middle pixel): to the right for
    positive phi, up for negative theta, nearer for negative r (-0.5: half way). In axes with x right, y up
    and z back at that point, tilted against the camera's by `elevation_deg` (how far the photograph looks
    down), the camera is at R_y(phi) R_x(theta) (p + r p_z e_z), p being where it starts, and turns along.

    Each line is interpolated by itself, evenly over time: linearly if it has up to 3 numbers, else by
    scipy's smoothing spline at its default smoothing, which does not go through the numbers in between,
    with its two ends put back to the first and last number.
    """
    lines = read_lines(path)
    if len(lines) != 3:
        raise UserError(
            f"{path} has {len(lines)} lines, expected ViewCrafter's three: phi, theta and r"
        )
    count = VIEWCRAFTER_VIEWS if num_views is None else num_views
    phi, theta, r = (
        _viewcrafter_sequence(line, f"{path}, line {number} ({name})", count)
        for (number, line), name in zip(lines, ("phi", "theta", "r"), strict=True)
    )
    if (r <= -1).any():
        raise UserError(
            f"{path}, line {lines[2][0]} (r): reaches {r.min():.3g}; at -1 the camera is in the middle of"
            " what it looks at"
        )
    if not -90 < elevation_deg < 90:
        raise UserError(f"elevation is {elevation_deg:g} degrees, expected between -90 and 90")
    elevation = math.radians(elevation_deg)
    start = np.array([0.0, math.sin(elevation), math.cos(elevation)])
    # The camera's right, down and forward in the axes of the sphere.
    facing = Rotation.from_euler("x", 180 - elevation_deg, degrees=True)
    turn = Rotation.from_euler("YX", np.stack([phi, theta], axis=1), degrees=True)
    places = np.tile(start, (count, 1))
    places[:, 2] += r * start[2]
    transforms = np.tile(np.eye(4), (count, 1, 1))
    transforms[:, :3, :3] = (turn * facing).as_matrix()
    transforms[:, :3, 3] = turn.apply(places)
    return RecordedPath.from_camera_to_world(str(path), torch.from_numpy(transforms))


def _viewcrafter_sequence(line: str, where: str, count: int) -> Float[np.ndarray, " count"]:
    """A line's numbers spread over `count` views, as ViewCrafter does it."""
    expected = f"{VIEWCRAFTER_LENGTHS[0]} to {VIEWCRAFTER_LENGTHS[-1]} numbers that start with 0"
    values = np.array(_numbers(line, where, expected, VIEWCRAFTER_LENGTHS))
    if values[0] != 0:
        raise UserError(
            f"{where} starts with {values[0]:g}, expected 0: the photograph's own place"
        )
    at, wanted = np.linspace(0, 1, len(values)), np.linspace(0, 1, count)
    if len(values) <= 3:
        return np.interp(wanted, at, values)
    spread = np.asarray(UnivariateSpline(at, values)(wanted))
    spread[0], spread[-1] = values[0], values[-1]
    return spread


def _numbers(
    line: str,
    where: str,
    expected: str,
    counts: range = range(REALESTATE10K_COLUMNS, REALESTATE10K_COLUMNS + 1),
) -> list[float]:
    """The numbers of a line; raises UserError where one is none, not finite, or their count is wrong."""
    words = line.split()
    for word in words:
        if not _is_number(word):
            raise UserError(f"{where}: {word[:40]!r} is not a number; expected {expected}")
        if not math.isfinite(float(word)):
            raise UserError(f"{where}: {word} is not a finite number; expected {expected}")
    if len(words) not in counts:
        raise UserError(f"{where} has {len(words)} numbers, expected {expected}")
    return [float(word) for word in words]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
