"""Mesh files, read back by trimesh and by hand."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from data.cameras import Cameras, intrinsics_from_fov
from models.meshing.files import FILES, TexturedMesh, write_mesh
from models.meshing.rasteriser import draw_atlas
from models.meshing.surface import Mesh
from models.meshing.unwrap import unwrap

SIZE = 256


def paint(points: np.ndarray) -> np.ndarray:
    """Red grows to the right, green downward, blue away: our axes."""
    return 0.5 + 0.4 * points


@pytest.fixture
def textured(octahedron: Mesh) -> TexturedMesh:
    unwrapped = unwrap(octahedron, SIZE)
    atlas = draw_atlas(unwrapped.uvs, unwrapped.mesh.faces, SIZE)
    texture = torch.full((SIZE, SIZE, 3), 0.5)
    points = atlas.interpolate(unwrapped.mesh.faces, unwrapped.mesh.vertices)
    texture[torch.from_numpy(atlas.face[0] >= 0)] = torch.from_numpy(paint(points)).float()
    return TexturedMesh(unwrapped, texture.movedim(-1, 0))


@pytest.fixture
def camera() -> Cameras:
    """At (0, 0, -4), turned half a right angle about y; looks along z before that."""
    turn = torch.tensor([[0.8, 0, 0.6, 0.5], [0, 1, 0, -0.25], [-0.6, 0, 0.8, -4], [0, 0, 0, 1]])
    return Cameras.from_camera_to_world(turn[None], intrinsics_from_fov(40.0, 30, 40)[None], 30, 40)


def glb_parts(content: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert magic == b"glTF" and version == 2 and length == len(content)
    size, kind = struct.unpack("<I4s", content[12:20])
    assert kind == b"JSON"
    return json.loads(content[20 : 20 + size]), content[28 + size :]


def accessor(tree: dict, blob: bytes, number: int) -> np.ndarray:
    entry = tree["accessors"][number]
    view = tree["bufferViews"][entry["bufferView"]]
    start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
    dtype = {5126: "<f4", 5125: "<u4"}[entry["componentType"]]
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[entry["type"]]
    return np.frombuffer(blob, dtype, entry["count"] * width, start).reshape(-1, width)


def test_the_glb_is_gltf_with_upright_axes_texture_and_camera(textured, camera, tmp_path):
    """Read by the letter of the glTF specification, without trimesh."""
    write_mesh(textured, tmp_path, camera)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    tree, blob = glb_parts((tmp_path / "mesh.glb").read_bytes())
    primitive = tree["meshes"][0]["primitives"][0]
    positions = accessor(tree, blob, primitive["attributes"]["POSITION"])
    uvs = accessor(tree, blob, primitive["attributes"]["TEXCOORD_0"])
    normals = accessor(tree, blob, primitive["attributes"]["NORMAL"])
    faces = accessor(tree, blob, primitive["indices"]).reshape(-1, 3)
    material = tree["materials"][primitive["material"]]
    assert material["extensions"] == {"KHR_materials_unlit": {}} and material["doubleSided"]
    assert "KHR_materials_unlit" in tree["extensionsUsed"]
    source = tree["textures"][material["pbrMetallicRoughness"]["baseColorTexture"]["index"]][
        "source"
    ]
    view = tree["bufferViews"][tree["images"][source]["bufferView"]]
    start = view.get("byteOffset", 0)
    image = np.asarray(Image.open(io.BytesIO(blob[start : start + view["byteLength"]])))
    assert image.shape[:2] == (SIZE, SIZE)

    # A face's middle has the paint of its place, and glTF counts v from the top.
    middle_uv, middle = uvs[faces].mean(axis=1), positions[faces].mean(axis=1)
    texels = np.floor(middle_uv * SIZE).astype(int)
    ours = middle * [1, -1, -1]
    assert np.abs(image[texels[:, 1], texels[:, 0], :3] / 255 - paint(ours)).max() < 0.02
    a, b, c = positions[faces].swapaxes(0, 1)
    assert ((np.cross(b - a, c - a) * middle).sum(1) > 0).all()  # counter-clockwise from outside
    assert ((normals * positions).sum(1) > 0.5).all()

    node = next(node for node in tree["nodes"] if "camera" in node)
    lens = tree["cameras"][node["camera"]]["perspective"]
    assert np.degrees(lens["yfov"]) == pytest.approx(40) and lens["aspectRatio"] == pytest.approx(
        4 / 3
    )
    matrix = np.array(node["matrix"]).reshape(4, 4).T
    local = np.linalg.inv(matrix) @ np.append(positions[0], 1)  # looks along -z, y up
    pixels, _ = camera.project(torch.from_numpy(positions[0] * [1, -1, -1])[None].float())
    scale = 15 / np.tan(np.radians(20))
    expected = [20 - scale * local[0] / local[2], 15 + scale * local[1] / local[2]]
    assert local[2] < 0 and np.allclose(pixels[0, 0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.obj"])
def test_trimesh_reads_it_back_with_its_texture(textured, name, tmp_path):
    write_mesh(textured, tmp_path)
    loaded = trimesh.load(tmp_path / name, force="mesh", process=False)
    assert len(loaded.faces) == 8
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and loaded.volume == pytest.approx(4 / 3, rel=1e-5)
    loaded = trimesh.load(tmp_path / name, force="mesh", process=False)
    material = loaded.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    assert image.size == (SIZE, SIZE)
    middle = loaded.vertices[loaded.faces].mean(axis=1)
    colours = trimesh.visual.color.uv_to_color(loaded.visual.uv[loaded.faces].mean(axis=1), image)
    assert np.abs(colours[:, :3] / 255 - paint(middle * [1, -1, -1])).max() < 0.03


def test_the_objs_material_names_its_texture(textured, tmp_path):
    write_mesh(textured, tmp_path)
    assert "mtllib mesh.mtl" in (tmp_path / "mesh.obj").read_text()
    assert "map_Kd mesh.png" in (tmp_path / "mesh.mtl").read_text()
    pixels = np.asarray(Image.open(tmp_path / "mesh.png"))
    assert np.abs(pixels / 255 - textured.texture.movedim(0, -1).numpy()).max() <= 0.5 / 255 + 1e-6
