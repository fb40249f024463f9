"""PLY files against gsplat's exporter and plyfile, and what damaged ones say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from configs.errors import UserError
from models.gaussians import SH_C0, Gaussians
from models.scenes import ply as gaussian_files
from models.scenes.ply import load_ply, save_ply

NUM = 60


def make_gaussians(sh_degree: int | None = None) -> Gaussians:
    g = torch.Generator().manual_seed(4)
    k = 0 if sh_degree is None else (sh_degree + 1) ** 2
    return Gaussians(
        means=torch.randn(NUM, 3, generator=g) * 5,
        quats=torch.nn.functional.normalize(torch.randn(NUM, 4, generator=g), dim=1),
        scales=torch.exp(torch.randn(NUM, 3, generator=g) * 2 - 3),
        opacities=torch.rand(NUM, generator=g) * 0.98 + 0.01,
        colors=torch.randn(NUM, k, 3, generator=g) if k else torch.rand(NUM, 3, generator=g),
    )


def assert_close(actual: Gaussians, expected: Gaussians) -> None:
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(getattr(actual, name), tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("degree", [None, 1, 2, 3])
def test_round_trip(tmp_path: Path, degree: int | None) -> None:
    gaussians = make_gaussians(degree)
    save_ply(gaussians, tmp_path / "scene.ply")
    loaded = load_ply(tmp_path / "scene.ply")
    assert loaded.sh_degree == degree
    assert_close(loaded, gaussians)
    assert os.listdir(tmp_path) == ["scene.ply"]  # noqa: PTH208


def test_degree_0_comes_back_as_the_rgb_that_is_drawn(tmp_path: Path) -> None:
    gaussians = make_gaussians(0)
    save_ply(gaussians, tmp_path / "scene.ply")
    expected = (gaussians.colors[:, 0] * SH_C0 + 0.5).clamp(min=0)
    assert (expected == 0).any()
    torch.testing.assert_close(load_ply(tmp_path / "scene.ply").colors, expected)


@pytest.mark.parametrize("degree", [0, 3])
def test_gsplat_writes_the_same_bytes(tmp_path: Path, degree: int) -> None:
    exporter = pytest.importorskip("gsplat.exporter")
    gaussians = make_gaussians(degree)
    theirs = exporter.export_splats(
        means=gaussians.means,
        scales=gaussians.scales.double().log(),
        quats=gaussians.quats,
        opacities=torch.logit(gaussians.opacities.double()),
        sh0=gaussians.colors[:, :1],
        shN=gaussians.colors[:, 1:],
    )
    (tmp_path / "theirs.ply").write_bytes(theirs)
    save_ply(gaussians, tmp_path / "ours.ply")
    assert (tmp_path / "ours.ply").read_bytes() == theirs
    if degree:
        assert_close(load_ply(tmp_path / "theirs.ply"), gaussians)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_files_with_normals_doubles_and_extras(tmp_path: Path, text: bool, byte_order: str) -> None:
    """As the original 3DGS code writes them (normals), in every encoding, attributes in another order."""
    gaussians = make_gaussians(1)
    path = tmp_path / "plain.ply"
    save_ply(gaussians, path)
    table = PlyData.read(str(path), mmap=False)["vertex"].data
    names = [*reversed(table.dtype.names), "nx", "ny", "nz", "label"]
    wide = np.zeros(NUM, dtype=[(n, "f8" if n != "label" else "u1") for n in names])
    for name in table.dtype.names:
        wide[name] = table[name]
    faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
    PlyData(
        [PlyElement.describe(wide, "vertex"), PlyElement.describe(faces, "face")],
        text=text,
        byte_order=byte_order,
        comments=["made by a test"],
    ).write(str(path))
    assert_close(load_ply(path), gaussians)


def test_extreme_values_survive(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    gaussians.opacities[:3] = torch.tensor([0.0, 1.0, 0.5])
    gaussians.scales[0] = 0
    save_ply(gaussians, tmp_path / "scene.ply")
    assert_close(load_ply(tmp_path / "scene.ply"), gaussians)


def test_no_gaussians(tmp_path: Path) -> None:
    empty = make_gaussians().select(torch.zeros(NUM, dtype=torch.bool))
    save_ply(empty, tmp_path / "scene.ply")
    assert load_ply(tmp_path / "scene.ply").num_gaussians == 0


def changed_header(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"vertex 60", b"vertex 61", "promises 61 Gaussians.*truncated"),
        (b"vertex 60", b"vertex 999999999999999", "promises 999999999999999"),
        (b"vertex 60", b"vertex -1", "header line 3.*-1"),
        (b"vertex 60", b"vertex sixty", "header line 3.*sixty"),
        (b"float opacity", b"float capacity", "lacks the attributes opacity$"),
        (b"float opacity", b"quaternion opacity", "makes no sense: 'property quaternion"),
        (b"float opacity", b"list uchar float opacity", "opacity is a list"),
        (b"float f_rest_8", b"float f_rest_9", "9 f_rest attributes"),
        (b"float f_rest_8", b"float f_8", "8 f_rest attributes"),
        (b"end_header", b"end_of_head", "no end"),
        (b"ply\n", b"PNG\n", "not a PLY file"),
        (b"element vertex", b"element points", "no 'vertex' element; found points"),
        (b"float x\n", b"float packed_position\n", "compressed PLY"),
        (b"binary_little_endian", b"ascii", "is damaged"),
    ],
)
def test_a_lying_header_is_one_clear_sentence(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "scene.ply"
    save_ply(make_gaussians(1), path)
    changed_header(path, old, new)
    with pytest.raises(UserError, match=message) as error:
        load_ply(path)
    assert str(path) in str(error.value)


def test_a_point_cloud_is_recognised(tmp_path: Path) -> None:
    points = np.zeros(3, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1")])
    path = tmp_path / "points.ply"
    PlyData([PlyElement.describe(points, "vertex")]).write(str(path))
    with pytest.raises(UserError, match="looks like a point cloud"):
        load_ply(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    save_ply(make_gaussians(), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="truncated"):
        load_ply(path)


def test_a_huge_ascii_count_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    save_ply(make_gaussians(), path)
    table = PlyData.read(str(path), mmap=False)
    PlyData([table["vertex"]], text=True).write(str(path))
    changed_header(path, b"vertex 60", b"vertex 1000000000")
    with pytest.raises(UserError, match="promises 1000000000"):
        load_ply(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x", np.nan, "x is NaN for Gaussian 7"),
        ("y", np.inf, "means are NaN, infinite"),
        ("scale_1", 1000, "scales are NaN, infinite or too large"),
    ],
)
def test_values_out_of_range(tmp_path: Path, column: str, value: float, message: str) -> None:
    path = tmp_path / "scene.ply"
    save_ply(make_gaussians(), path)
    ply = PlyData.read(str(path), mmap=False)
    ply["vertex"].data[column][7] = value
    ply.write(str(path))
    with pytest.raises(UserError, match=message):
        load_ply(path)


def test_a_rotation_of_length_0(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    gaussians.quats[3] = 0
    save_ply(gaussians, tmp_path / "scene.ply")
    with pytest.raises(UserError, match="1 Gaussians have a rotation of length 0"):
        load_ply(tmp_path / "scene.ply")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.ply: cannot be read \(No such file"):
        load_ply(tmp_path / "nothing.ply")
    with pytest.raises(UserError, match="cannot be read"):
        load_ply(tmp_path)


def test_saving_writes_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scene.ply"
    save_ply(make_gaussians(), path)
    before = path.read_bytes()

    broken = make_gaussians()
    broken.means[5, 1] = float("nan")
    with pytest.raises(UserError, match="means hold NaN"):
        save_ply(broken, path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gaussian_files.os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        save_ply(make_gaussians(2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

    with pytest.raises(UserError, match="cannot be written"):
        save_ply(make_gaussians(), tmp_path / "no such folder" / "scene.ply")
