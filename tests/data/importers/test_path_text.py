"""RealEstate10K's rows against cameras placed by hand, ViewCrafter's lines against its definition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import UnivariateSpline

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from data.importers.path_files import find_format, load_camera_path, read_camera_path

HEIGHT, WIDTH = 48, 96
INTRINSICS = "0.5 0.9 0.5 0.5 0 0"
AT_ORIGIN = f"{INTRINSICS}  1 0 0 0  0 1 0 0  0 0 1 0"
# At (0.3, 0, 0), looking along the world's x: its right is -z, its down y.
TURNED_RIGHT = f"{INTRINSICS}  0 0 -1 0  0 1 0 0  1 0 0 -0.3"
HALF_TURNED = (
    f"{INTRINSICS}  0.707106781 0 -0.707106781 -0.106066017"
    "  0 1 0 0  0.707106781 0 0.707106781 -0.106066017"
)


def base_camera() -> Cameras:
    matrix = intrinsics_from_fov(60.0, HEIGHT, WIDTH).double()[None]
    return Cameras(torch.eye(4, dtype=torch.float64)[None], matrix, HEIGHT, WIDTH)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "path.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("header", [[], ["https://www.youtube.com/watch?v=abc"], ["", " "]])
def test_realestate10k_rows_are_world_to_camera_by_rows(tmp_path: Path, header: list[str]) -> None:
    file = written(tmp_path, *header, f"0 {AT_ORIGIN}", f"1 {HALF_TURNED}", f"2 {TURNED_RIGHT}")
    assert find_format(file) == "realestate10k"
    path = load_camera_path(file, base_camera(), scale=1.5)
    assert path.num_views == 3
    to_world = path.camera_to_world
    half = math.sqrt(0.5)
    expected = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(path.positions, expected, atol=1e-8, rtol=0)
    forward = torch.tensor([[0.0, 0, 1], [half, 0, half], [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(to_world[:, :3, 2], forward, atol=1e-8, rtol=0)
    down = torch.tensor([0.0, 1, 0], dtype=torch.float64).expand(3, 3)
    torch.testing.assert_close(to_world[:, :3, 1], down, atol=1e-8, rtol=0)


def test_realestate10k_timestamps_are_the_time(tmp_path: Path) -> None:
    """Half of the time passes in the first step, which is half of the way in the file's rows."""
    step = AT_ORIGIN.replace("0 0 1 0", "0 0 1 {z}")
    rows = [
        f"{t} {step.format(z=z)}" for t, z in ((1000, 0), (41000, -0.2), (61000, -0.4), (81000, 0))
    ]
    path = load_camera_path(written(tmp_path, *rows), base_camera(), 5, positions="linear")
    assert path.positions[:, 2].tolist() == pytest.approx([0, 0.1, 0.2, 0.4, 0])
    same_time = [row.replace(row.split()[0], "0", 1) for row in rows]
    path = load_camera_path(written(tmp_path, *same_time), base_camera(), 7, positions="linear")
    assert path.positions[:, 2].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.2, 0])


def test_realestate10k_zoom_and_shift_act_on_the_photographs_intrinsics(tmp_path: Path) -> None:
    rows = [
        f"0 0.5 0.9 0.50 0.5 0 0 {AT_ORIGIN[len(INTRINSICS) :]}",
        f"1 1.0 1.2 0.75 0.4 0 0 {AT_ORIGIN[len(INTRINSICS) :]}",
    ]
    base = base_camera()
    path = load_camera_path(written(tmp_path, *rows), base)
    assert torch.equal(path.intrinsics[0], base.intrinsics[0])
    first, last = path.intrinsics
    assert float(last[0, 0] / first[0, 0]) == pytest.approx(2)
    assert float(last[1, 1] / first[1, 1]) == pytest.approx(1.2 / 0.9)
    assert float(last[0, 2] - first[0, 2]) == pytest.approx(0.25 * WIDTH)
    assert float(last[1, 2] - first[1, 2]) == pytest.approx(-0.1 * HEIGHT)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([f"0 {AT_ORIGIN}"], "has at least 2 views, this one has 1"),
        (["https://v"], "has at least 2 views, this one has none"),
        ([f"0 {AT_ORIGIN}", f"1 {AT_ORIGIN} 0"], "line 2 has 20 numbers, expected 19 numbers"),
        ([f"0 {AT_ORIGIN}", "1 0.5"], "line 2 has 2 numbers"),
        ([f"0 {AT_ORIGIN}", f"x {AT_ORIGIN}"], "line 2: 'x' is not a number"),
        (
            [f"0 {AT_ORIGIN}", f"1 {AT_ORIGIN}".replace("0.9", "nan")],
            "line 2: nan is not a finite",
        ),
        ([f"0 {AT_ORIGIN}", f"1 {AT_ORIGIN}".replace("0.9", "0")], "focal length is .0.5, 0."),
        ([f"0 {AT_ORIGIN}", f"1 {AT_ORIGIN}".replace("0.9", "500")], "500 seems to be in pixels"),
        ([f"1 {AT_ORIGIN}", f"0 {AT_ORIGIN}"], "times have to increase.*view 0 is at 1 and view 1"),
        (
            [f"0 {AT_ORIGIN}", f"1 {AT_ORIGIN}".replace("1 0 0 0", "-1 0 0 0")],
            "camera 1 has a mirrored rotation.*axis convention",
        ),
        (
            [f"0 {AT_ORIGIN}", f"1 {AT_ORIGIN}".replace("1 0 0 0", "2 0 0 0")],
            "camera 1 has a rotation that is not orthonormal",
        ),
    ],
)
def test_what_is_wrong_with_realestate10k_files(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    file = written(tmp_path, *rows)
    with pytest.raises(UserError, match=message) as error:
        load_camera_path(file, base_camera())
    assert str(file) in str(error.value)


def viewcrafter_pose(phi: float, theta: float, r: float, elevation: float) -> np.ndarray:
    """Camera-to-first-camera, in the steps of ViewCrafter's code: to the object's axes, the shift along
    z, then the rotations about x and y."""
    angle = np.deg2rad(180 - elevation)
    c, s = np.cos(angle), np.sin(angle)
    object_to_camera = np.eye(4)
    object_to_camera[:3, :3] = [[1, 0, 0], [0, c, s], [0, -s, c]]
    object_to_camera[:3, 3] = [0, 0, 1]
    anchor = np.linalg.inv(object_to_camera)
    pose = anchor.copy()
    pose[2, 3] += r * anchor[2, 3]
    a, b = np.deg2rad(theta), np.deg2rad(phi)
    about_x, about_y = np.eye(4), np.eye(4)
    about_x[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    about_y[:3, :3] = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    return np.linalg.inv(anchor) @ about_y @ about_x @ pose


@pytest.mark.parametrize("elevation", [0.0, 5.0, -20.0])
def test_viewcrafter_is_its_definition(tmp_path: Path, elevation: float) -> None:
    file = written(tmp_path, "0 3 10 20 17 10 0", "0 -8  6", "0. -0.02 -0.09 -0.18 -0.09")
    assert find_format(file) == "viewcrafter"
    path = load_camera_path(file, base_camera(), elevation_deg=elevation)
    assert path.num_views == 25
    at = np.linspace(0, 1, 25)

    def smooth(values: list[float]) -> np.ndarray:
        curve = UnivariateSpline(np.linspace(0, 1, len(values)), values, k=3)(at)
        curve[[0, -1]] = values[0], values[-1]
        return curve

    phi = smooth([0, 3, 10, 20, 17, 10, 0])
    theta = np.interp(at, [0, 0.5, 1], [0, -8, 6])
    r = smooth([0, -0.02, -0.09, -0.18, -0.09])
    poses = zip(phi, theta, r, strict=True)
    expected = np.stack([viewcrafter_pose(*pose, elevation) for pose in poses])
    assert np.allclose(path.camera_to_world.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("lines", "place", "forward"),
    [
        (("0 90", "0 0", "0 0"), [1, 0, 1], [-1, 0, 0]),  # to the right, looking left
        (("0 0", "0 -90", "0 0"), [0, -1, 1], [0, 1, 0]),  # up, looking down
        (("0 0", "0 0", "0 -0.5"), [0, 0, 0.5], [0, 0, 1]),  # half way to what it looks at
        (("0 0 0", "0 0", "0 0.5"), [0, 0, -0.5], [0, 0, 1]),
    ],
)
def test_viewcrafter_directions(
    tmp_path: Path, lines: tuple[str, str, str], place: list[float], forward: list[float]
) -> None:
    file = written(tmp_path, *lines)
    path = load_camera_path(file, base_camera(), 9, elevation_deg=0.0)
    last = path.select(-1).camera_to_world[0]
    assert path.num_views == 9
    assert last[:3, 3].tolist() == pytest.approx(place, abs=1e-9)
    assert last[:3, 2].tolist() == pytest.approx(forward, abs=1e-9)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("0", "0 1", "0 0"), "line 1 .phi. has 1 numbers, expected 2 to 25"),
        (("0 0", " ".join(["0"] * 26), "0 0"), "line 2 .theta. has 26 numbers"),
        (("0 0", "0 nan", "0 0"), "line 2 .theta.: nan is not a finite number"),
        (("0 0", "5 1", "0 0"), "line 2 .theta. starts with 5, expected 0"),
        (("0 0", "0 0", "0 -1"), "reaches -1; at -1 the camera is in the middle"),
    ],
)
def test_what_is_wrong_with_viewcrafter_files(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_camera_path(written(tmp_path, *lines), base_camera())


def test_three_rows_of_realestate10k_are_no_viewcrafter_file_unless_one_says_so(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, *(f"{t} {AT_ORIGIN}" for t in range(3)))
    assert find_format(file) == "realestate10k"
    file = written(tmp_path, *[" ".join(["0"] * 19)] * 3)
    assert len(read_camera_path(file, format="viewcrafter").world_to_camera) == 25
    with pytest.raises(UserError, match="has 2 lines, expected ViewCrafter's three"):
        read_camera_path(written(tmp_path, "0 0", "0 0"), format="viewcrafter")


def test_what_is_no_text(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(UserError, match=r"photo\.jpg is not a text file, expected a camera path"):
        load_camera_path(photo, base_camera())
    with pytest.raises(UserError, match=r"missing\.txt can't be read \(No such file"):
        load_camera_path(tmp_path / "missing.txt", base_camera())
