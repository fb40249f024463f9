"""SPZ files against bytes worked out by hand from the format's definition, and what damaged ones say."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from models.gaussians import SH_C0, Gaussians
from models.scenes.files import load_scene, save_scene
from models.scenes.spz import load_spz, save_spz

NUM = 60


def make_gaussians(sh_degree: int | None = None) -> Gaussians:
    g = torch.Generator().manual_seed(4)
    k = 0 if sh_degree is None else (sh_degree + 1) ** 2
    return Gaussians(
        means=torch.randn(NUM, 3, generator=g) * 5,
        quats=torch.nn.functional.normalize(torch.randn(NUM, 4, generator=g), dim=1),
        scales=torch.exp(torch.randn(NUM, 3, generator=g) * 2 - 3),
        opacities=torch.rand(NUM, generator=g),
        colors=torch.rand(NUM, k, 3, generator=g) * 1.8 - 0.9
        if k
        else torch.rand(NUM, 3, generator=g),
    )


def header(
    version: int = 3, count: int = 1, degree: int = 0, bits: int = 20, flags: int = 0
) -> bytes:
    return b"NGSP" + struct.pack("<IIBBBB", version, count, degree, bits, flags, 0)


def by_hand() -> tuple[Gaussians, bytes]:
    """One Gaussian and its file before compression, field by field.

    In the file's axes the mean is (1.5, 2.25, -3), in steps of 2^-20; the rotation xyzw is
    (0.3, 0.1, -0.3, 0.9), of which w is largest and 0.3 / sqrt(1/2) x 511 = 216.8.
    """
    gaussian = Gaussians(
        means=torch.tensor([[1.5, -2.25, 3.0]]),
        quats=torch.tensor([[0.9, 0.3, -0.1, 0.3]]),
        scales=torch.tensor([[math.exp(-3), math.exp(-9.98), 1.0]]),
        opacities=torch.tensor([0.8]),
        colors=torch.tensor([[0.5 + SH_C0, 0.5 - SH_C0, 0.5 + 2 * SH_C0]]),
    )
    content = (
        header()
        + bytes([0, 0, 0x18, 0, 0, 0x24, 0, 0, 0xD0])
        + bytes([204])
        + bytes([166, 89, 204])  # 255 (0.5 + 0.15 c) for c = 1, -1, 2
        + bytes([112, 0, 160])
        + struct.pack("<I", 3 << 30 | 217 << 20 | 72 << 10 | (1 << 9 | 217))
    )
    return gaussian, content


def test_every_byte_is_where_the_format_has_it(tmp_path: Path) -> None:
    gaussian, content = by_hand()
    save_spz(gaussian, tmp_path / "scene.spz")
    assert gzip.decompress((tmp_path / "scene.spz").read_bytes()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["scene.spz"]


def test_bytes_made_by_hand_are_read(tmp_path: Path) -> None:
    expected, content = by_hand()
    (tmp_path / "scene.spz").write_bytes(gzip.compress(content))
    found = load_spz(tmp_path / "scene.spz")
    assert torch.equal(found.means, expected.means)
    torch.testing.assert_close(found.quats, expected.quats, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scales, expected.scales, atol=0, rtol=0.032)
    torch.testing.assert_close(found.opacities, expected.opacities)
    torch.testing.assert_close(found.colors, expected.colors, atol=0.004, rtol=0)


def test_version_2_is_read(tmp_path: Path) -> None:
    """Its rotations are x, y, z as (b / 127.5) - 1."""
    expected, content = by_hand()
    content = header(version=2) + content[16:-4] + bytes([166, 140, 89])
    (tmp_path / "scene.spz").write_bytes(gzip.compress(content))
    torch.testing.assert_close(
        load_spz(tmp_path / "scene.spz").quats, expected.quats, atol=5e-3, rtol=0
    )


@pytest.mark.parametrize("degree", [None, 1, 2, 3])
def test_round_trip_within_the_formats_steps(tmp_path: Path, degree: int | None) -> None:
    gaussians = make_gaussians(degree)
    save_scene(gaussians, tmp_path / "scene.spz")
    loaded = load_scene(tmp_path / "scene.spz")
    assert loaded.sh_degree == degree and loaded.num_gaussians == NUM
    # The furthest mean is between 8 and 16: 19 fractional bits.
    assert 8 < gaussians.means.abs().max() < 16
    torch.testing.assert_close(loaded.means, gaussians.means, atol=2**-20 + 1e-6, rtol=0)
    cosine = (loaded.quats.double() * gaussians.quats.double()).sum(1).abs()
    assert bool((cosine > math.cos(math.radians(0.3) / 2)).all())
    scales = gaussians.scales.clamp(math.exp(-10), math.exp(255 / 16 - 10))
    torch.testing.assert_close(loaded.scales.log(), scales.log(), atol=1 / 32 + 1e-5, rtol=0)
    torch.testing.assert_close(loaded.opacities, gaussians.opacities, atol=0.5 / 255, rtol=1e-5)
    base = slice(None) if degree is None else (slice(None), 0)
    step = 0.5 / 255 / 0.15 * (SH_C0 if degree is None else 1)
    torch.testing.assert_close(
        loaded.colors[base], gaussians.colors[base], atol=step + 1e-6, rtol=0
    )
    if degree is not None:
        torch.testing.assert_close(
            loaded.colors[:, 1:], gaussians.colors[:, 1:], atol=0.5 / 128 + 1e-6, rtol=0
        )


def test_far_scenes_get_coarser_steps_and_empty_ones_work(tmp_path: Path) -> None:
    far = make_gaussians()
    far.means[0, 2] = -3000.0
    save_spz(far, tmp_path / "far.spz")
    torch.testing.assert_close(load_spz(tmp_path / "far.spz").means, far.means, atol=2**-12, rtol=0)
    far.means[0, 2] = 1e7
    with pytest.raises(
        UserError, match="reaches 1e.07 units from its origin, SPZ at most 8,388,607"
    ):
        save_spz(far, tmp_path / "too_far.spz")
    empty = make_gaussians(2).select(torch.zeros(NUM, dtype=torch.bool))
    save_spz(empty, tmp_path / "empty.spz")
    loaded = load_spz(tmp_path / "empty.spz")
    assert loaded.num_gaussians == 0 and loaded.colors.shape == (0, 9, 3)


def test_what_has_no_place_in_the_format_becomes_the_nearest(tmp_path: Path) -> None:
    gaussian, _ = by_hand()
    gaussian.colors[0] = torch.tensor([-5.0, 9.0, 0.5])
    gaussian.scales[0] = torch.tensor([0.0, 1e9, 1.0])
    save_spz(gaussian, tmp_path / "scene.spz")
    loaded = load_spz(tmp_path / "scene.spz")
    assert loaded.colors[0].tolist() == pytest.approx([0, 0.5 + SH_C0 / 0.3, 0.5], abs=0.004)
    assert loaded.scales[0].tolist() == pytest.approx([math.exp(-10), math.exp(5.9375), 1.0])


def test_nan_is_refused(tmp_path: Path) -> None:
    broken = make_gaussians()
    broken.scales[7, 1] = float("nan")
    with pytest.raises(
        UserError, match=r"scene\.spz: not written, since the scene's scales hold NaN"
    ):
        save_spz(broken, tmp_path / "scene.spz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(by_hand()[1][:-1]), "1 Gaussians take 20 bytes, found 19"),
        (gzip.compress(by_hand()[1] + b"x"), "1 Gaussians take 20 bytes, found more"),
        (gzip.compress(by_hand()[1])[:-9], "is damaged or not an SPZ file"),
        (gzip.compress(by_hand()[1])[:-8] + b"\xff" * 8, "is damaged or not an SPZ file"),
        (b"ply\nformat", "is damaged or not an SPZ file"),
        (b"", "is not an SPZ file"),
        (gzip.compress(b"PSGN" + by_hand()[1][4:]), "is not an SPZ file .its first bytes"),
        (gzip.compress(header(version=4)), "is SPZ version 4; this program reads versions 2 and 3"),
        (gzip.compress(header(count=9_999_999)), "promises 9,999,999 Gaussians, which .* can't hold"),
        (gzip.compress(header(count=4_000_000_000)), "header makes no sense .4,000,000,000"),
        (gzip.compress(header(degree=4)), "makes no sense .*harmonics of degree 4"),
        (gzip.compress(header(bits=24)), "makes no sense .*24 fractional bits"),
        (gzip.compress(header(flags=2)), "has vendor extensions"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_clear_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "scene.spz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_spz(path)
    assert str(path) in str(error.value)


def test_files_by_their_ending(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.SPZ: cannot be read \(No such file"):
        load_scene(tmp_path / "missing.SPZ")
    with pytest.raises(UserError, match=r"read from \.ply and \.spz files, not from \.obj"):
        load_scene(tmp_path / "scene.obj")
    with pytest.raises(UserError, match=r"written as \.ply, \.spz, \.glb, not as a file without"):
        save_scene(make_gaussians(), tmp_path / "scene")
    save_scene(make_gaussians(), tmp_path / "scene.ply")
    assert load_scene(tmp_path / "scene.ply").num_gaussians == NUM
