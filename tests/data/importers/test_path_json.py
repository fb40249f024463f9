"""nerfstudio's camera paths against cameras placed by hand; our own format exactly there and back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.camera_paths import PATHS, make_path
from data.cameras import Cameras, intrinsics_from_fov
from data.importers.path_files import find_format, load_camera_path, read_camera_path
from data.importers.path_json import save_camera_path

HEIGHT, WIDTH = 48, 96
HALF = math.sqrt(0.5)


def base_camera() -> Cameras:
    matrix = intrinsics_from_fov(60.0, HEIGHT, WIDTH).double()[None]
    return Cameras(torch.eye(4, dtype=torch.float64)[None], matrix, HEIGHT, WIDTH)


def moved(x: float, y: float, z: float) -> list[float]:
    """An OpenGL camera that looks along -z with y up, by rows."""
    return [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1]


def view(matrix: list[Any], fov: Any = 60.0, aspect: Any = 2.0) -> dict[str, Any]:
    return {"camera_to_world": matrix, "fov": fov, "aspect": aspect}


def written(folder: Path, content: Any) -> Path:
    path = folder / "path.json"
    path.write_text(json.dumps(content))
    return path


def nerfstudio_file(folder: Path, *views: Any, **changes: Any) -> Path:
    content = {
        "camera_type": "perspective",
        "render_height": 1080,
        "render_width": 2160,
        "fps": 24,
        "seconds": 4,
        "keyframes": [],
        "camera_path": list(views),
    }
    return written(folder, {**content, **changes})


def test_nerfstudios_axes_are_opengls(tmp_path: Path) -> None:
    """-z is forward, +y up: from (5, 5, 5), a step forward, one to the right, one up; then it looks left."""
    looks_left = [HALF, 0, HALF, 6, 0, 1, 0, 6, -HALF, 0, HALF, 4, 0, 0, 0, 1]
    places = [moved(5, 5, 5), moved(5, 5, 4), moved(6, 5, 4), moved(6, 6, 4), looks_left]
    file = nerfstudio_file(tmp_path, *(view(place) for place in places))
    assert find_format(file) == "nerfstudio"
    path = load_camera_path(file, base_camera(), scale=2.0)
    expected = [[0, 0, 0], [0, 0, 0.5], [0.5, 0, 0.5], [0.5, -0.5, 0.5], [0.5, -0.5, 0.5]]
    assert torch.allclose(path.positions, torch.tensor(expected, dtype=torch.float64))
    assert path.camera_to_world[-1, :3, 2].tolist() == pytest.approx([-HALF, 0, HALF])
    assert torch.allclose(path.intrinsics, base_camera().intrinsics)


def test_nerfstudios_fov_is_vertical_degrees(tmp_path: Path) -> None:
    """tan(45 deg) = 2 tan(fov / 2) for the second view: its focal length is twice the first one's."""
    fov = 2 * math.degrees(math.atan(0.5))
    file = nerfstudio_file(tmp_path, view(moved(0, 0, 0), 90), view(moved(0, 0, 0), fov))
    path = load_camera_path(file, base_camera())
    factor = path.intrinsics[1] / path.intrinsics[0]
    assert float(factor[0, 0]) == pytest.approx(2) == float(factor[1, 1])
    assert float(factor[0, 2]) == 1 == float(factor[1, 2])
    raw = read_camera_path(file).intrinsics[0]
    assert raw[:2].tolist() == [
        pytest.approx(
            [0.25, 0, 0.5]
        ),  # 0.5 / tan(45 deg) of the height is half of that of the width
        pytest.approx([0, 0.5, 0.5]),
    ]


@pytest.mark.parametrize(
    ("views", "changes", "message"),
    [
        ([], {}, "non-empty list under the key 'camera_path'"),
        ([view(moved(0, 0, 0))], {}, "at least 2 views, this one has 1"),
        ([view(moved(0, 0, 0)), 3], {}, "view 1 is not a JSON object"),
        ([view(moved(0, 0, 0)), view([1, 2])], {}, "view 1: 'camera_to_world' has shape .2., exp"),
        ([view(moved(0, 0, 0)), {"fov": 50}], {}, "view 1: 'camera_to_world' is not a 4x4 list"),
        ([view(moved(0, 0, 0)), view(moved(0, 0, math.nan))], {}, "camera 1 has NaN or infinite"),
        ([view(moved(0, 0, 0)), view(moved(0, 0, 0), 0)], {}, "view 1: 'fov' is 0, expected"),
        ([view(moved(0, 0, 0), None)] * 2, {}, "view 0: 'fov' is missing, expected the vertical"),
        ([view(moved(0, 0, 0), 50, 0)] * 2, {}, "view 0: 'aspect' is 0, expected"),
        ([view(moved(0, 0, 0))] * 2, {"camera_type": "fisheye"}, "camera_type is 'fisheye'"),
        (
            [view([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, x, 2, 3, 1]) for x in (0, 1)],
            {},
            "camera 0 has its translation in the last row.*transposed",
        ),
        (
            [view([-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1])] * 2,
            {},
            "camera 0 has a mirrored rotation",
        ),
    ],
)
def test_what_is_wrong_with_nerfstudios_files(
    tmp_path: Path, views: list[Any], changes: dict[str, Any], message: str
) -> None:
    file = nerfstudio_file(tmp_path, *views, **changes)
    with pytest.raises(UserError, match=message) as error:
        load_camera_path(file, base_camera())
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", PATHS)
def test_ours_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    base = base_camera().to(torch.float32)
    path = make_path(name, base, 17)
    save_camera_path(path, tmp_path / "path.json")
    assert find_format(tmp_path / "path.json") == "stillscape"
    for num_views in (None, 17):
        again = load_camera_path(tmp_path / "path.json", base, num_views)
        assert torch.equal(again.world_to_camera, path.world_to_camera)
        assert torch.equal(again.intrinsics, path.intrinsics)
        assert (again.height, again.width) == (HEIGHT, WIDTH)


def test_ours_moves_with_the_photograph_and_to_another_size(tmp_path: Path) -> None:
    """What a path does seen from its first camera is the same wherever that camera is."""
    turned = torch.eye(4, dtype=torch.float64)
    turned[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix())
    turned[:3, 3] = torch.tensor([3.0, -2, 5])
    base = base_camera()
    save_camera_path(make_path("dolly_zoom", base, 9), tmp_path / "path.json")
    other = Cameras(turned[None], base.resize(96, 192).intrinsics, 96, 192)
    expected = make_path("dolly_zoom", other, 9)
    found = load_camera_path(tmp_path / "path.json", other)
    assert torch.allclose(found.world_to_camera, expected.world_to_camera, atol=1e-12)
    assert torch.allclose(found.intrinsics, expected.intrinsics, atol=1e-9)
    assert torch.equal(found.world_to_camera[0], other.world_to_camera[0])


def ours(*places: float, **changes: Any) -> dict[str, Any]:
    """A path that steps right, as a person would write it."""
    views = [
        {
            "world_to_camera": [[1, 0, 0, -x], [0, 1, 0, 0], [0, 0, 1, 0]],
            "intrinsics": [[50, 0, 48], [0, 50, 24], [0, 0, 1]],
        }
        for x in places
    ]
    content = {"format": "stillscape-camera-path", "version": 1, "axes": "opencv"}
    return {**content, "height": HEIGHT, "width": WIDTH, "views": views, **changes}


def test_metres_become_scene_units_by_what_the_file_or_the_caller_says(tmp_path: Path) -> None:
    def ends_at(scale: float | None = None, **changes: Any) -> float:
        file = written(tmp_path, ours(1, 1.5, 2, **changes))
        return float(load_camera_path(file, base_camera(), scale=scale).positions[-1, 0])

    assert ends_at() == 1 == ends_at(unit="scene")
    assert ends_at(unit="metres", metres_per_scene_unit=2.5) == pytest.approx(0.4)
    assert ends_at(unit="metres", scale=4) == pytest.approx(0.25)
    assert ends_at(unit="metres", metres_per_scene_unit=2.5, scale=4) == pytest.approx(0.25)
    with pytest.raises(UserError, match="is in metres; say how many metres make one scene unit"):
        ends_at(unit="metres")
    with pytest.raises(UserError, match="scale is 0, expected a positive number"):
        ends_at(scale=0)


def test_times_of_ones_own(tmp_path: Path) -> None:
    content = ours(0, 1, 1.4)
    for entry, time in zip(content["views"], (0, 5, 6), strict=True):
        entry["time"] = time
    path = load_camera_path(written(tmp_path, content), base_camera(), 7, positions="linear")
    assert path.positions[:, 0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1.4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2, this program reads version 1"),
        ({"axes": "opengl"}, "'axes' is 'opengl', expected 'opencv'"),
        ({"unit": "feet"}, "'unit' is 'feet', expected 'scene' or 'metres'"),
        ({"unit": "metres", "metres_per_scene_unit": 0}, "'metres_per_scene_unit' is 0"),
        ({"height": None}, "'height' is None, expected the image's height in pixels"),
        ({"views": "none"}, "non-empty list under the key 'views'"),
        ({"views": [{}, {}]}, "view 0: 'world_to_camera' is not a 4x4 list"),
        ({"views": ours(0)["views"]}, "at least 2 views"),
    ],
)
def test_what_is_wrong_with_ours(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = written(tmp_path, ours(0, 1, **changes))
    with pytest.raises(UserError, match=message) as error:
        load_camera_path(file, base_camera())
    assert str(file) in str(error.value)


def test_a_focal_length_of_zero(tmp_path: Path) -> None:
    content = ours(0, 0.1)
    content["views"][1]["intrinsics"][0][0] = 0
    with pytest.raises(UserError, match=r"path\.json: camera 1 has focal length \(0, "):
        load_camera_path(written(tmp_path, content), base_camera())


def test_saving_refuses_what_loading_would(tmp_path: Path) -> None:
    path = make_path("dolly", base_camera(), 3)
    path.world_to_camera[1, 0, 0] = math.nan
    with pytest.raises(UserError, match="camera 1 has NaN"):
        save_camera_path(path, tmp_path / "path.json")
    assert list(tmp_path.iterdir()) == []
