"""Image reading against Pillow's own pixels, and resizing against analytic pictures."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from configs.errors import UserError
from data.importers import images as module
from data.importers.images import (
    image_size,
    list_images,
    natural_order,
    read_image,
    read_mask,
    resize_and_crop,
    write_image,
)

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph of 40 x 60."""
    return np.ascontiguousarray(data.astronaut()[100:300:5, 50:350:5])


def test_rgb_is_read_as_it_was_written(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.float32 and image.shape == (3, 40, 60)
    np.testing.assert_allclose(image.movedim(0, -1).numpy(), photo / 255, atol=1e-7)
    write_image(image, tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, photo: np.ndarray, orientation: int) -> None:
    """Stored pixels are turned by numpy as the EXIF standard defines each value."""
    stored = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(photo, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[ORIENTATION] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png").movedim(0, -1).numpy()
    np.testing.assert_allclose(upright, photo / 255, atol=1e-7)
    as_stored = read_image(tmp_path / "a.png", upright=False).movedim(0, -1).numpy()
    np.testing.assert_allclose(as_stored, stored / 255, atol=1e-7)
    assert image_size(tmp_path / "a.png") == (40, 60)


def test_transparent_pixels_show_the_background(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [255, 0, 0, 255]
    rgba[0, 1] = [0, 255, 0, 51]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[:, 0, 0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(image[:, 0, 1], [0.8, 1, 0.8], atol=1e-6)
    assert image[:, 1, 1].tolist() == [1, 1, 1]
    blue = read_image(tmp_path / "a.png", background=(0.0, 0.0, 1.0))
    np.testing.assert_allclose(blue[:, 0, 1], [0, 0.2, 0.8], atol=1e-6)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=1)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[:, 0, 0], np.array([10, 20, 30]) / 255, atol=1e-6)
    assert image[:, 0, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "YCbCr", "RGBX"])
def test_every_colour_mode_comes_out_as_rgb(tmp_path: Path, photo: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(photo).convert(mode)
    picture.save(tmp_path / "a.tif")
    expected = np.asarray(picture.convert("RGB")) / 255
    image = read_image(tmp_path / "a.tif").movedim(0, -1).numpy()
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_a_cmyk_jpeg_looks_like_the_photograph(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg").movedim(0, -1).numpy()
    assert np.abs(image - photo / 255).mean() < 0.02


def test_16_bit_grey_keeps_its_levels(tmp_path: Path) -> None:
    levels = np.array([[0, 1, 40000, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    for channel in image:
        np.testing.assert_allclose(channel, levels / 65535, atol=1e-7)


def test_16_bit_colour_is_not_misread(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 0, 40000, 65535, 65535, 0, 40000)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        content += struct.pack(">I", len(body)) + kind + body + checksum
    (tmp_path / "a.png").write_bytes(content)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[:, 0, 0], [0, 40000 / 65535, 1], atol=1 / 255)
    np.testing.assert_allclose(image[:, 0, 1], [1, 0, 40000 / 65535], atol=1 / 255)


def test_32_bit_values_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32) * 3).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a.tif: its 32-bit pixel values have no agreed range"):
        read_image(tmp_path / "a.tif")


def test_masks_are_white_where_the_picture_counts(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 51]], np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_allclose(read_mask(tmp_path / "m.png"), [[0, 1, 0.2]], atol=1e-6)


def test_a_missing_file_and_one_that_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing.png: no such image file"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(
        UserError, match=r"text.jpg is not an image that can be read; expected JPEG"
    ):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(UserError, match="can't be read or is damaged"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp"])
def test_a_truncated_image_is_named(tmp_path: Path, photo: np.ndarray, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(photo).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=name):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(suffix=st.sampled_from(["jpg", "png", "webp", "tif", "gif"]), draw=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_never_ends_in_anything_but_a_user_error(
    tmp_path: Path, photo: np.ndarray, suffix: str, draw: st.DataObject
) -> None:
    buffer = io.BytesIO()
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    Image.fromarray(photo).save(buffer, formats.get(suffix, suffix.upper()))
    content = bytearray(buffer.getvalue())
    for _ in range(draw.draw(st.integers(1, 8))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    try:
        image = read_image(path)
    except UserError:
        return
    assert image.shape[0] == 3 and bool(torch.isfinite(image).all())


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A one-bit PNG of 20000 x 20000 is a small file that would take 4.8 GB as floats."""
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb.png: the image is .* more than 120 million pixels"):
        read_image(tmp_path / "bomb.png")


def test_the_limit_on_pixels_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(module, "MAX_PIXELS", 600)
    assert read_image(tmp_path / "a.png").shape == (3, 20, 30)
    monkeypatch.setattr(module, "MAX_PIXELS", 599)
    with pytest.raises(UserError, match="the image is 20x30"):
        read_image(tmp_path / "a.png")


def test_images_are_listed_in_counting_order(tmp_path: Path) -> None:
    for name in ("view_10.PNG", "view_2.jpg", "view_1.jpeg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).touch()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["view_1.jpeg", "view_2.jpg", "view_10.PNG"]
    with pytest.raises(UserError, match="is not a folder"):
        list_images(tmp_path / "nowhere")


@given(st.lists(st.text("a1_0B2²", max_size=5)))
def test_natural_order_can_compare_any_names(names: list[str]) -> None:
    in_order = sorted(names, key=natural_order)
    assert sorted(in_order) == sorted(names)


Colour = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def picture_of(height: int, width: int, colour_at: Colour) -> torch.Tensor:
    """Three channels of a function of the pixel centre (u, v)."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([colour_at(u, v, channel) for channel in range(3)])


@pytest.mark.parametrize(
    ("source", "target"),
    [((80, 60), (20, 20)), ((45, 120), (30, 48)), ((50, 50), (64, 96)), ((64, 96), (64, 96))],
)
def test_resizing_moves_colours_where_its_matrix_says(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    """A linear ramp is kept by any symmetric filter: each new pixel must show the ramp's value at the
    place of the old image that the matrix maps to its centre."""

    def ramp(u: torch.Tensor, v: torch.Tensor, channel: int) -> torch.Tensor:
        return 0.2 + (0.003 * u, 0.004 * v, 0.001 * u + 0.002 * v)[channel]

    resized, matrix = resize_and_crop(picture_of(*source, ramp), *target)
    assert resized.shape == (3, *target)
    inverse = torch.linalg.inv(matrix)

    def expected(u: torch.Tensor, v: torch.Tensor, channel: int) -> torch.Tensor:
        return ramp(inverse[0, 0] * u + inverse[0, 2], inverse[1, 1] * v + inverse[1, 2], channel)

    inner = (slice(None), slice(3, -3), slice(3, -3))  # the filter is one-sided at the border
    torch.testing.assert_close(
        resized[inner], picture_of(*target, expected)[inner].float(), atol=1e-4, rtol=0
    )


def test_the_crop_is_centred_and_as_large_as_can_be() -> None:
    _, matrix = resize_and_crop(torch.zeros(3, 100, 300), 50, 50)
    assert matrix[0, 0] == matrix[1, 1] == 0.5
    corners = matrix @ torch.tensor([[100.0, 200], [0, 100], [1, 1]], dtype=torch.float64)
    assert corners[:2].T.tolist() == [[0, 0], [50, 50]]


def test_downsizing_is_antialiased() -> None:
    """Stripes one pixel wide become grey, not stripes of another width."""
    stripes = (torch.arange(256) % 2).float().expand(3, 256, 256)
    small, _ = resize_and_crop(stripes, 64, 64)
    assert (small[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.02
