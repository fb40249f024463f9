"""Image files: one reader for every kind of picture, and the one place that fits a picture to a size."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from configs.errors import UserError

MAX_PIXELS = 120_000_000
"""A picture with more pixels is refused before it is decoded: 120 million take 1.4 GB as floats."""

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}

Color = tuple[float, float, float]

WHITE: Color = (1.0, 1.0, 1.0)

DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises on a damaged file, depending on the format."""


def read_image(
    path: Path | str, *, background: Color = WHITE, upright: bool = True
) -> Float[Tensor, "3 h w"]:
    """RGB in [0, 1] of an image file of any colour mode, 8 or 16 bits.

    background: colour in [0, 1] behind transparent pixels.
    upright: turn the picture as its EXIF orientation says; False keeps the pixels as they are stored.

    CMYK is converted without its colour profile; 16-bit colour is reduced to 8 bits by the decoder
    (16-bit grey is not); of an animation the first frame is read.
    Raises UserError where the file is missing, not an image, damaged, or larger than `MAX_PIXELS`.
    """
    return to_rgb(open_picture(path, upright=upright), background, str(path))


def open_picture(path: Path | str, *, upright: bool = True) -> Image.Image:
    """The decoded picture in its own colour mode; arguments and errors as for `read_image`."""
    path = Path(path)
    with failures_explained(path), Image.open(path) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise UserError(_too_large(path, f"{height}x{width}"))
        picture.load()
        return ImageOps.exif_transpose(picture) if upright else picture.copy()


def decode_picture(content: bytes, source: str) -> Float[Tensor, "3 h w"]:
    """RGB in [0, 1] of an image file's bytes; `source` names them in errors, which are those of `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise UserError(_too_large(source, f"{picture.height}x{picture.width}"))
                return to_rgb(picture, WHITE, source)
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(source, "enormous")) from error
    except DECODING_ERRORS as error:
        raise UserError(f"{source}: not an image, or damaged ({error})") from error


def to_rgb(picture: Image.Image, background: Color, source: str) -> Float[Tensor, "3 h w"]:
    """RGB in [0, 1] of a decoded picture, named `source` in errors; see `read_image`."""
    if picture.mode.startswith("I;16"):
        grey = torch.from_numpy(np.asarray(picture).astype(np.float32)) / 65535
        return grey.expand(3, *grey.shape).contiguous()
    if picture.mode in ("I", "F"):
        raise UserError(
            f"{source}: its 32-bit pixel values have no agreed range; save it with 8 or 16 bits"
        )
    try:
        if picture.has_transparency_data:
            rgba = _to_tensor(picture.convert("RGBA"))
            behind = torch.tensor(background)[:, None, None]
            return rgba[:3] * rgba[3:] + behind * (1 - rgba[3:])
        return _to_tensor(picture.convert("RGB"))
    except ValueError as error:
        raise UserError(
            f"{source}: colour mode {picture.mode} can't be converted to RGB; save it as RGB"
        ) from error


def read_mask(path: Path | str, *, upright: bool = True) -> Float[Tensor, "h w"]:
    """A mask in [0, 1] from the grey values of an image file: 1 where the picture counts."""
    return read_image(path, background=(0.0, 0.0, 0.0), upright=upright).mean(dim=0)


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width of an image file, turned upright as its EXIF orientation says; reads its header."""
    path = Path(path)
    with failures_explained(path), Image.open(path) as picture:
        width, height = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def write_image(image: Float[Tensor, "3 h w"], path: Path | str) -> None:
    """Writes RGB in [0, 1] with 8 bits a channel, in the format that the file's name says."""
    to_picture(image).save(path)


def to_picture(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """RGB in [0, 1] as a Pillow picture of 8 bits a channel."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)
    return Image.fromarray(levels.contiguous().cpu().numpy())


def list_images(folder: Path | str) -> list[Path]:
    """The image files of a folder (not of those below it), by name, with numbers in counting order."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a folder of images")
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which "view_2" comes before "view_10"."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p.lower()) for p in parts if p]


def resize_and_crop(
    image: Float[Tensor, "c h w"], height: int, width: int
) -> tuple[Float[Tensor, "c new_h new_w"], Float[Tensor, "3 3"]]:
    """The largest centred part of the image with the wanted proportions, at `height` x `width`.

    Also returns the matrix (float64) that takes homogeneous pixel positions of the image to those of
    the result, so that `new_intrinsics = matrix @ intrinsics`. The scale is the same along both axes.
    Downsizing is antialiased (Pillow's bicubic filter, widened by the scale).
    """
    source_height, source_width = image.shape[-2:]
    scale = max(height / source_height, width / source_width)
    left = max(0.0, (source_width - width / scale) / 2)
    top = max(0.0, (source_height - height / scale) / 2)
    box = (left, top, source_width - left, source_height - top)
    channels = [
        np.asarray(
            Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC, box=box)
        )
        for channel in image.to(torch.float32).contiguous().cpu().numpy()
    ]
    matrix = torch.tensor(
        [[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1]], dtype=torch.float64
    )
    return torch.from_numpy(np.stack(channels)).clamp(0, 1), matrix


@contextmanager
def failures_explained(path: Path) -> Iterator[None]:
    """Turns what Pillow raises on a bad file into a UserError that names it."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; we refuse them at our own limit, or take them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image file") from error
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(path, "enormous")) from error
    except UnidentifiedImageError as error:
        found = "a HEIC picture, which" if _is_heic(path) else "not an image that"
        can = "can't" if _is_heic(path) else "can"
        raise UserError(
            f"{path} is {found} {can} be read; expected JPEG, PNG, WebP, TIFF or BMP"
        ) from error
    except DECODING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path}: the image can't be read or is damaged ({reason})") from error


def _is_heic(path: Path) -> bool:
    """Whether a file is what many phones write unless told to be compatible."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in {b"heic", b"heix", b"mif1", b"msf1", b"hevc"}


def _too_large(source: Path | str, size: str) -> str:
    return (
        f"{source}: the image is {size}, more than {MAX_PIXELS // 1_000_000} million pixels;"
        " make it smaller first"
    )


def _to_tensor(picture: Image.Image) -> Float[Tensor, "c h w"]:
    return (
        torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).movedim(-1, 0).contiguous()
    )
