"""GLB files taken apart by glTF's own layout, and opened with trimesh."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from configs.errors import UserError
from models.gaussians import SH_C0, Gaussians
from models.scenes.glb import save_glb

NUM = 25
PREFIX = "KHR_gaussian_splatting:"


def make_gaussians(sh_degree: int | None = None) -> Gaussians:
    g = torch.Generator().manual_seed(5)
    k = 0 if sh_degree is None else (sh_degree + 1) ** 2
    return Gaussians(
        means=torch.randn(NUM, 3, generator=g) * 5,
        quats=torch.randn(NUM, 4, generator=g),
        scales=torch.exp(torch.randn(NUM, 3, generator=g) - 3),
        opacities=torch.rand(NUM, generator=g),
        colors=torch.randn(NUM, k, 3, generator=g) if k else torch.rand(NUM, 3, generator=g),
    )


def take_apart(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON of a GLB file and its primitive's attributes, with glTF's rules checked on the way."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    json_length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and json_length % 4 == 0
    content = json.loads(data[20 : 20 + json_length])
    binary_length, kind = struct.unpack_from("<I4s", data, 20 + json_length)
    assert kind == b"BIN\0" and binary_length % 4 == 0
    binary = data[28 + json_length :]
    assert len(binary) == binary_length == content["buffers"][0]["byteLength"]
    primitive = content["meshes"][0]["primitives"][0]
    attributes = {}
    for name, index in primitive["attributes"].items():
        accessor = content["accessors"][index]
        view = content["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0 and view["buffer"] == 0
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        dtype = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        block = binary[view["byteOffset"] :][: view["byteLength"]]
        attributes[name] = np.frombuffer(block, dtype).reshape(accessor["count"], width)
    return content, attributes


@pytest.mark.parametrize("degree", [None, 0, 3])
def test_the_extension_is_used_as_its_specification_says(
    tmp_path: Path, degree: int | None
) -> None:
    gaussians = make_gaussians(degree)
    save_glb(gaussians, tmp_path / "scene.glb")
    content, attributes = take_apart(tmp_path / "scene.glb")
    assert content["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert content["scenes"][content["scene"]]["nodes"] == [0] and content["nodes"][0]["mesh"] == 0
    primitive = content["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0  # points
    assert primitive["extensions"]["KHR_gaussian_splatting"] == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
    }

    upright = gaussians.means.numpy() * [1, -1, -1]  # y up, z back
    positions = attributes.pop("POSITION")
    assert np.array_equal(positions, upright.astype("f4"))
    bounds = content["accessors"][0]
    assert bounds["min"] == positions.min(0).tolist()
    assert bounds["max"] == positions.max(0).tolist()
    rotations = attributes.pop(f"{PREFIX}ROTATION")
    assert np.allclose(np.linalg.norm(rotations, axis=1), 1, atol=1e-6)
    unit = torch.nn.functional.normalize(gaussians.quats, dim=1).numpy()
    assert np.allclose(rotations, unit[:, [1, 2, 3, 0]] * [1, -1, -1, 1], atol=1e-6)
    assert np.array_equal(attributes.pop(f"{PREFIX}SCALE"), gaussians.scales.numpy())
    assert np.array_equal(attributes.pop(f"{PREFIX}OPACITY")[:, 0], gaussians.opacities.numpy())

    base = attributes.pop(f"{PREFIX}SH_DEGREE_0_COEF_0")
    rgb = base * SH_C0 + 0.5
    expected = gaussians.colors if degree is None else gaussians.colors[:, 0] * SH_C0 + 0.5
    assert np.allclose(rgb, expected, atol=1e-6)
    points = attributes.pop("COLOR_0")
    assert np.abs(points[:, 3] / 255 - gaussians.opacities.numpy()).max() <= 0.5 / 255 + 1e-6
    encoded = np.where(
        points[:, :3] / 255 <= 0.0031308,
        points[:, :3] / 255 * 12.92,
        1.055 * (points[:, :3] / 255) ** (1 / 2.4) - 0.055,
    )
    assert np.abs(encoded - rgb.clip(0, 1)).max() < 0.03  # 8 linear bits are coarse in the dark

    if degree == 3:
        # Even in y and z together keeps its sign: xy is odd, yz even, x (x^2 - 3 y^2) even.
        for name, index, sign in (("1_COEF_0", 1, -1), ("1_COEF_2", 3, 1), ("2_COEF_0", 4, -1),
                                  ("2_COEF_1", 5, 1), ("3_COEF_6", 15, 1)):  # fmt: skip
            found = attributes[f"{PREFIX}SH_DEGREE_{name}"]
            assert np.array_equal(found, sign * gaussians.colors[:, index].numpy())
        names = {f"{PREFIX}SH_DEGREE_{d}_COEF_{n}" for d in (1, 2, 3) for n in range(2 * d + 1)}
        assert set(attributes) == names
    else:
        assert not attributes


def test_trimesh_sees_the_points(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    save_glb(gaussians, tmp_path / "scene.glb")
    scene = trimesh.load_scene(tmp_path / "scene.glb")
    (cloud,) = scene.geometry.values()
    assert isinstance(cloud, trimesh.PointCloud)
    assert np.allclose(cloud.vertices, gaussians.means.numpy() * [1, -1, -1], atol=1e-5)
    assert cloud.colors.shape == (NUM, 4)


def test_an_empty_scene_and_nan(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    save_glb(gaussians.select(torch.zeros(NUM, dtype=torch.bool)), tmp_path / "empty.glb")
    data = (tmp_path / "empty.glb").read_bytes()
    content = json.loads(data[20:])
    assert struct.unpack_from("<I", data, 8) == (len(data),) and "meshes" not in content
    gaussians.colors[0, 0] = float("inf")
    with pytest.raises(UserError, match="colors hold NaN or infinite"):
        save_glb(gaussians, tmp_path / "scene.glb")
    assert not (tmp_path / "scene.glb").exists()
