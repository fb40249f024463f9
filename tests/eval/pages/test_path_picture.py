"""The picture shows the path where it is: pixels are looked up by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from eval.pages import path_picture
from eval.pages.path_picture import (
    GAP,
    LEFT,
    SIDE,
    TOP,
    draw_path,
    path_summary,
    write_path_picture,
)
from models.gaussians import Gaussians

RIGHT_LIMIT = LEFT + 3 * (SIDE + GAP) - GAP // 2


def base_camera() -> Cameras:
    """Somewhere in the world, turned: the picture does not care."""
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix())
    transform[:3, 3] = torch.tensor([3.0, -2, 5])
    matrix = intrinsics_from_fov(50.0, 64, 96).double()[None]
    return Cameras(transform[None], matrix, 64, 96)


def world(points: list[list[float]]) -> torch.Tensor:
    """Points given right, up, forward of the base camera, in world axes."""
    local = torch.tensor(points, dtype=torch.float64) * torch.tensor([1.0, -1, 1])
    to_world = base_camera().camera_to_world[0]
    return local @ to_world[:3, :3].mT + to_world[:3, 3]


def pixel(panel: int, x: float, y: float) -> tuple[int, int]:
    """Column and row of a place in a panel, both in shares of its side, from the lower left."""
    return round(LEFT + panel * (SIDE + GAP) + SIDE * x), round(TOP + SIDE * (1 - y))


def is_blue(color: np.ndarray) -> bool:
    return int(color[2]) > int(color[0]) + 60


def is_red(color: np.ndarray) -> bool:
    return int(color[0]) > int(color[2]) + 60


def test_start_and_end_are_where_they_are_in_every_panel() -> None:
    """Two scene units to the right: the panels are 2.6 wide, their middle 1 to the right, 0.5 forward."""
    picture = np.array(draw_path(make_path("truck", base_camera(), 9, 2.0)))
    assert picture.shape == (TOP + SIDE + path_picture.BOTTOM, RIGHT_LIMIT, 3)
    left, right, low = 0.5 - 1 / 2.6, 0.5 + 1 / 2.6, 0.5 - 0.5 / 2.6
    for panel, y in ((0, low), (2, 0.5)):
        column, row = pixel(panel, left, y)
        assert is_blue(picture[row, column])
        column, row = pixel(panel, right, y)
        assert is_red(picture[row, column])
        column, row = pixel(panel, 0.5, y)
        color = picture[row, column].astype(int)
        assert not is_blue(color) and not is_red(color) and color.max() < 200  # half way: purple
    # From the side, one lies behind the other.
    column, row = pixel(1, low, 0.5)
    assert is_red(picture[row, column])


def test_a_pyramid_opens_as_wide_as_its_camera_and_looks_where_it_does() -> None:
    """Depth 0.085 of the side; at 90 degrees its half width is as much."""
    matrix = intrinsics_from_fov(90.0, 64, 64).double()[None]
    base = Cameras(base_camera().world_to_camera, matrix, 64, 64)
    picture = np.array(draw_path(make_path("dolly", base, 2, 0.5)))
    start = 0.5 - 0.5 / 1.3  # the panel is 1.3 deep, from 0.15 behind the start
    for side in (-1, 1):
        column, row = pixel(0, 0.5 + side * 0.085, start + 0.085)
        assert picture[row - 3 : row + 4, column - 3 : column + 4].min(axis=(0, 1))[0] < 120
    column, row = pixel(0, 0.5 + 0.12, start + 0.085)
    assert picture[row, column].min() > 200
    column, row = pixel(0, 0.5 + 0.02, start - 0.03)
    assert picture[row, column].min() > 200


@pytest.mark.parametrize("kind", ["points", "gaussians"])
def test_the_scene_is_drawn_pale_behind_the_path(kind: str) -> None:
    points = world([[0.3, 0.2, 0.8], [-0.3, -0.2, 0.6], [0.0, 50.0, 0.0]])
    scene = points
    if kind == "gaussians":
        scene = Gaussians(
            means=points.float(),
            quats=torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4),
            scales=torch.full((3, 3), 0.01),
            opacities=torch.tensor([0.9, 0.05, 0.9]),
            colors=torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3),
        )
    path = make_path("dolly", base_camera(), 5, 0.5)
    with_scene, alone = np.array(draw_path(path, scene)), np.array(draw_path(path))
    places = {0: (0.3, 0.3), 1: (0.3, 0.2), 2: (0.3, 0.2)}
    for panel in range(3):
        across = 0.3 if panel != 1 else 0.8 - 0.5
        along = 0.8 - 0.5 if panel == 0 else places[panel][1]
        column, row = pixel(panel, 0.5 + across / 1.3, 0.5 + along / 1.3)
        patch = with_scene[row - 1 : row + 4, column - 1 : column + 4].astype(int)
        before = alone[row - 1 : row + 4, column - 1 : column + 4].astype(int)
        changed = np.abs(patch - before).max()
        assert changed > 60
        if kind == "gaussians":
            assert (patch[..., 1] - patch[..., 0]).max() > 60  # green
    column, row = pixel(0, 0.5 - 0.3 / 1.3, 0.5 + 0.1 / 1.3)
    faint = with_scene[row - 1 : row + 4, column - 1 : column + 4].astype(int)
    same = np.array_equal(faint, alone[row - 1 : row + 4, column - 1 : column + 4])
    assert same == (kind == "gaussians")  # one of opacity 0.05 is not drawn


def test_the_summary_says_what_a_path_does() -> None:
    base = base_camera()
    assert path_summary(make_path("pan", base, 17)) == (
        "17 views  ·  stays where it is  ·  turned by 20°"
    )
    assert path_summary(make_path("truck", base, 9, 0.4)) == (
        "9 views  ·  0.40 scene units long, ends 0.40 from its start  ·  not turned"
    )
    assert path_summary(make_path("dolly_zoom", base, 9)).endswith("field of view 50° to 67°")


def test_extremes_draw_and_the_file_is_whole(tmp_path) -> None:
    base = base_camera()
    write_path_picture(tmp_path / "one.png", base, title="one view")
    long = make_path("dolly", base.rescaled(1e-3), 49, 3.0).rescaled(1e-3)
    write_path_picture(tmp_path / "long.png", long, torch.zeros(0, 3), "a long way")
    for name in ("one.png", "long.png"):
        picture = Image.open(io.BytesIO((tmp_path / name).read_bytes()))
        assert picture.format == "PNG" and picture.width == RIGHT_LIMIT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.png", "one.png"]
