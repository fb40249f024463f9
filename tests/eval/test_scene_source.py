from __future__ import annotations

import json

import pytest
import torch

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from data.importers.path_json import save_camera_path
from eval.scene_source import STAND_IN_HEIGHT, open_scene, read_cameras
from models.gaussians import Gaussians
from models.scenes.files import save_scene


@pytest.fixture
def path() -> Cameras:
    """Five cameras that don't start at the origin."""
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    start = torch.eye(4)[None].clone()
    start[0, :3, 3] = torch.tensor([0.5, -0.25, 1.0])
    return make_path("orbit", Cameras(start, lens, 32, 48), 5, 30)


@pytest.fixture
def gaussians() -> Gaussians:
    return Gaussians(
        means=torch.rand(20, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(20, 1),
        scales=torch.full((20, 3), 0.1),
        opacities=torch.full((20,), 0.9),
        colors=torch.rand(20, 3),
    )


def test_cameras_beside_a_scene_are_found_as_they_were_written(path, gaussians, tmp_path):
    save_scene(gaussians, tmp_path / "scene.ply")
    assert open_scene(tmp_path).cameras is None
    save_camera_path(path, tmp_path / "camera_path.json")
    for name in (tmp_path, tmp_path / "scene.ply"):
        found = open_scene(name)
        assert found.file == tmp_path / "scene.ply" and found.gaussians.num_gaussians == 20
        assert found.cameras is not None and (found.cameras.height, found.cameras.width) == (32, 48)
        assert torch.equal(found.cameras.world_to_camera, path.world_to_camera)
        assert torch.allclose(found.cameras.intrinsics, path.intrinsics, rtol=1e-6)


def test_cameras_of_other_formats_get_a_size(path, tmp_path):
    to_opengl = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    content = {
        "camera_path": [
            {"camera_to_world": (m @ to_opengl).flatten().tolist(), "fov": 45, "aspect": 1.5}
            for m in path.camera_to_world
        ]
    }
    (tmp_path / "path.json").write_text(json.dumps(content))
    found = read_cameras(tmp_path / "path.json")
    assert (found.height, found.width) == (STAND_IN_HEIGHT, STAND_IN_HEIGHT * 3 // 2)
    assert torch.allclose(found.world_to_camera, path.world_to_camera, atol=1e-6)
    assert torch.allclose(
        found.intrinsics, path.resize(found.height, found.width).intrinsics, rtol=1e-4
    )


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no scene; expected scene\.ply or scene\.spz"):
        open_scene(tmp_path)
    (tmp_path / "path.txt").write_text("0\n0 20\n0 30\n0.1 0.2")
    with pytest.raises(UserError):
        read_cameras(tmp_path / "path.txt")
