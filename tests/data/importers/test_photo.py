"""Photographs of every kind, against pixels and angles that are known beforehand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from configs.errors import UserError
from data.importers.images import read_image
from data.importers.photo import (
    DEFAULT_FOCAL_35MM,
    Photo,
    equivalent_focal,
    open_photo,
    photo_from_frame,
)

TAGS = ExifTags.Base


def gradient(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards: where a colour comes from can be read off it."""
    v, u = np.mgrid[:height, :width]
    return np.stack(
        [255 * (u + 0.5) / width, 255 * (v + 0.5) / height, np.full_like(u, 128.0)], axis=-1
    ).astype(np.uint8)


def with_exif(picture: Image.Image, orientation: int = 1, **lens: object) -> Image.Exif:
    exif = picture.getexif()
    exif[TAGS.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update({getattr(TAGS, tag): v for tag, v in lens.items()})
    return exif


def fov_deg(photo: Photo, axis: int) -> float:
    """The angle that the frame spans along x (0) or y (1)."""
    size = (photo.camera.width, photo.camera.height)[axis]
    return 2 * math.degrees(math.atan(0.5 * size / float(photo.camera.intrinsics[0, axis, axis])))


def test_the_middle_is_cut_out_and_the_camera_follows(tmp_path: Path) -> None:
    """A point of the photograph lands on the pixel that the new intrinsics say it does."""
    Image.fromarray(gradient(200, 500)).save(tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png", 64, 96, focal_35mm=40)
    assert photo.frame.shape == (3, 64, 96)
    assert torch.equal(photo.camera.world_to_camera, torch.eye(4)[None])
    focal_px = 40 * math.hypot(200, 500) / math.hypot(36, 24)
    directions = np.array([[-60.0, 30.0], [100.0, -80.0]]) / focal_px  # from the middle, in pixels
    for x, y in directions:
        u, v, _ = photo.camera.intrinsics[0].double().numpy() @ [x, y, 1]
        red = float(photo.frame[0, round(v - 0.5), round(u - 0.5)])
        green = float(photo.frame[1, round(v - 0.5), round(u - 0.5)])
        assert red == pytest.approx((250 + x * focal_px) / 500, abs=0.01)
        assert green == pytest.approx((100 + y * focal_px) / 200, abs=0.01)
    assert any("the middle 60% of it is used" in note for note in photo.notes)


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (301, 97), (1200, 1601)])
def test_any_size_becomes_the_same_frame(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(gradient(*size)).save(tmp_path / "a.jpg")
    photo = open_photo(tmp_path / "a.jpg", 64, 96)
    assert photo.frame.shape == (3, 64, 96)
    assert photo.frame[:2].mean(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    fx, fy, cx, cy = (
        float(photo.camera.intrinsics[0][i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))
    )
    assert (fx, cx, cy) == pytest.approx((fy, 48, 32), rel=1e-5)


def test_a_28_mm_lens_spans_what_its_makers_say(tmp_path: Path) -> None:
    """On 36 x 24 mm: 65.5 degrees by 46.4 (2 atan 18/28 and 2 atan 12/28)."""
    Image.fromarray(gradient(200, 300)).save(tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png", 64, 96)
    assert DEFAULT_FOCAL_35MM == 28
    assert fov_deg(photo, 0) == pytest.approx(65.47, abs=0.01)
    assert fov_deg(photo, 1) == pytest.approx(46.40, abs=0.01)
    assert any("28 mm (35 mm equivalent) assumed" in note for note in photo.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_pixels_and_camera(orientation: int, tmp_path: Path) -> None:
    """A portrait photo from a phone is stored lying on its side."""
    picture = Image.fromarray(gradient(160, 240))
    exif = with_exif(picture, orientation, FocalLengthIn35mmFilm=24)
    picture.save(tmp_path / "a.png", exif=exif)
    photo = open_photo(tmp_path / "a.png", 48, 72)
    upright = read_image(tmp_path / "a.png")
    height, width = upright.shape[1:]
    assert ((height, width) == (240, 160)) == (orientation >= 5)
    middle = upright[:, height // 2 - 8 : height // 2 + 8, width // 2 - 8 : width // 2 + 8]
    at_middle = photo.frame[:, 20:28, 32:40]
    assert (middle.mean(dim=(1, 2)) - at_middle.mean(dim=(1, 2))).abs().max() < 0.02
    across = photo.frame[:, 24, 64] - photo.frame[:, 24, 8]
    assert torch.allclose(
        across.sign()[:2], (upright[:, height // 2, -8] - upright[:, height // 2, 8]).sign()[:2]
    )
    # the width of the frame shows all 240 stored columns, or the 160 that were rows
    stored_width = 2 * math.degrees(math.atan(18 / 24))
    stored_height = 2 * math.degrees(math.atan(12 / 24))
    expected = stored_height if orientation >= 5 else stored_width
    assert fov_deg(photo, 0) == pytest.approx(expected, abs=0.01)
    assert any("turned upright" in note for note in photo.notes) == (orientation != 1)


@pytest.mark.parametrize(
    ("lens", "size", "focal"),
    [
        ({"FocalLengthIn35mmFilm": 50}, (600, 400), 50),
        # Full frame: 36 mm hold 6000 pixels, 254 * 6000 / 360 = 4233.3 an inch
        (
            {
                "FocalLength": IFDRational(50),
                "FocalPlaneXResolution": IFDRational(4233333, 1000),
                "FocalPlaneResolutionUnit": 2,
                "ExifImageWidth": 6000,
                "ExifImageHeight": 4000,
            },
            (600, 400),  # made ten times smaller since
            50,
        ),
        # half the sides of full frame: crop factor 2; pixels a centimetre
        (
            {
                "FocalLength": 25.0,
                "FocalPlaneXResolution": 600 / 1.8,
                "FocalPlaneResolutionUnit": 3,
            },
            (600, 400),
            50,
        ),
        # cropped from 600x400 to its square middle: 400 px of 24 mm, so 566 of the diagonal's 721
        (
            {"FocalLengthIn35mmFilm": 50, "ExifImageWidth": 600, "ExifImageHeight": 400},
            (400, 400),
            50 * math.hypot(600, 400) / math.hypot(400, 400),
        ),
        # the same size, turned
        (
            {"FocalLengthIn35mmFilm": 50, "ExifImageWidth": 400, "ExifImageHeight": 600},
            (600, 400),
            50,
        ),
        ({"FocalLength": 4.2}, (600, 400), None),
        ({"FocalLengthIn35mmFilm": 0}, (600, 400), None),
        (
            {"FocalLength": IFDRational(0, 0), "FocalPlaneXResolution": IFDRational(1, 0)},
            (600, 400),
            None,
        ),
        ({}, (600, 400), None),
    ],
)
def test_focal_lengths_of_exif(lens: dict, size: tuple[int, int], focal: float | None) -> None:
    found = equivalent_focal({getattr(TAGS, tag): value for tag, value in lens.items()}, *size)
    assert found == (None if focal is None else pytest.approx(focal, rel=1e-4))


def test_exif_is_read_from_the_file_unless_a_focal_length_is_given(tmp_path: Path) -> None:
    picture = Image.fromarray(gradient(100, 150))
    picture.save(tmp_path / "a.jpg", exif=with_exif(picture, FocalLengthIn35mmFilm=50))
    assert fov_deg(open_photo(tmp_path / "a.jpg", 64, 96), 1) == pytest.approx(26.99, abs=0.01)
    given = open_photo(tmp_path / "a.jpg", 64, 96, focal_35mm=28)
    assert fov_deg(given, 1) == pytest.approx(46.40, abs=0.01)
    picture.save(tmp_path / "b.jpg", exif=with_exif(picture, FocalLengthIn35mmFilm=30000))
    doubted = open_photo(tmp_path / "b.jpg", 64, 96)
    assert fov_deg(doubted, 1) == pytest.approx(46.40, abs=0.01)
    assert any("not believed" in note for note in doubted.notes)


def test_every_kind_of_picture_gives_its_colours(tmp_path: Path) -> None:
    truth = gradient(80, 120)
    rgb = Image.fromarray(truth)
    alpha = Image.fromarray(np.full((80, 120), 128, np.uint8))
    red = Image.fromarray(truth[..., 0])
    kinds = {
        "a.jpg": rgb,
        "a.webp": rgb,
        "a.tif": rgb,
        "a.bmp": rgb,
        "cmyk.jpg": rgb.convert("CMYK"),
        "palette.png": rgb.quantize(256),
        "clear.png": Image.merge("RGBA", [*rgb.split(), alpha]),
        "opaque.png": rgb.convert("RGBA"),
        "grey.png": red,
        "deep.png": Image.fromarray(truth[..., 0].astype(np.uint16) * 257),
        "moving.gif": rgb.quantize(256),
    }
    rest = {"moving.gif": {"save_all": True, "append_images": [Image.new("RGB", rgb.size)]}}
    expected = torch.from_numpy(truth).movedim(-1, 0).float() / 255
    notes = {}
    for name, picture in kinds.items():
        picture.save(tmp_path / name, **rest.get(name, {}))
        photo = open_photo(tmp_path / name, 80, 120)
        notes[name] = photo.notes[:-1]
        wanted = expected
        if name in {"grey.png", "deep.png"}:
            wanted = expected[:1].expand(3, -1, -1)
        if name == "clear.png":
            wanted = expected * 128 / 255 + 127 / 255
        worst = 0.1 if name in {"palette.png", "moving.gif"} else 0.06
        assert (photo.frame - wanted).abs().mean() < 0.02, name
        assert (photo.frame - wanted).abs().max() < worst, name
    assert [name for name, said in notes.items() if said] == ["cmyk.jpg", "clear.png", "moving.gif"]
    assert notes["clear.png"] == ("it is transparent in places: they are shown white",)
    black = open_photo(tmp_path / "clear.png", 80, 120, background=(0.0, 0.0, 0.0))
    assert (black.frame - expected * 128 / 255).abs().max() < 0.02
    assert "shown #000000" in black.notes[0]


def test_bad_files_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(gradient(64, 96)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    Image.new("RGB", (15, 400)).save(tmp_path / "tiny.png")
    monkeypatch.setattr("data.importers.images.MAX_PIXELS", 10_000)
    Image.new("RGB", (101, 100)).save(tmp_path / "huge.png")
    for name, words in {
        "none.jpg": "no such image file",
        "cut.jpg": "damaged",
        "text.jpg": "not an image",
        "empty.png": "not an image",
        "phone.heic": "HEIC",
        "tiny.png": "400x15 pixels; expected at least 16",
        "huge.png": "100x101, more than",
        "": "Is a directory",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            open_photo(tmp_path / name, 64, 96)
        assert str(tmp_path / name) in str(caught.value)
    for focal in (0.0, -5.0, math.nan, math.inf):
        with pytest.raises(UserError, match="focal length is"):
            open_photo(tmp_path / "whole.jpg", 64, 96, focal_35mm=focal)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A PNG header that claims 60000 x 60000 pixels, with next to nothing behind it."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(UserError, match="more than 120 million pixels"):
        open_photo(tmp_path / "bomb.png", 64, 96)


def test_a_frame_in_memory_is_as_good_as_its_file(tmp_path: Path) -> None:
    pixels = gradient(100, 130)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    frame = torch.from_numpy(pixels).movedim(-1, 0).float() / 255
    here, there = photo_from_frame(frame, 64, 96), open_photo(tmp_path / "a.png", 64, 96)
    assert torch.equal(here.frame, there.frame)
    assert torch.equal(here.camera.intrinsics, there.camera.intrinsics)
    assert any(
        "small: enlarged 2.0" in n for n in photo_from_frame(frame[:, :64, :48], 64, 96).notes
    )


def test_a_large_photo_gives_what_a_careful_resize_gives(tmp_path: Path) -> None:
    """The short cut for large pictures against Pillow's own filter on all of its pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((1103, 751), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png", 32, 48, focal_35mm=28)
    slow = photo_from_frame(read_image(tmp_path / "a.png"), 32, 48, focal_35mm=28)
    assert (photo.frame - slow.frame).abs().mean() < 0.02
    assert torch.allclose(photo.camera.intrinsics, slow.camera.intrinsics, rtol=0.005)
