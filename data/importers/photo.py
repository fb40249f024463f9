"""One photograph of any kind becomes a frame with the camera that took it.

A photograph tells no depth, so its unit of length is defined, not measured: the median depth of what it
shows is 1. Camera paths are given in that unit, and the models are trained in it (`Clip.normalised`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.importers.images import (
    DECODING_ERRORS,
    WHITE,
    Color,
    failures_explained,
    open_picture,
    resize_and_crop,
    to_rgb,
)

FILM_DIAGONAL_MM = math.hypot(36, 24)
DEFAULT_FOCAL_35MM = 28.0
"""A phone's main camera, and 46 degrees from top to bottom of a 3:2 picture: the middle of what we train on."""

FOCAL_35MM_LIMITS = (6.0, 2000.0)
"""From a fisheye's to a telescope's. EXIF that says otherwise is not believed."""

MIN_SIDE = 16
SPARE = 4

MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Of EXIF's FocalPlaneResolutionUnit: inch, centimetre, millimetre, micrometre."""


@dataclass(frozen=True)
class Photo:
    """A photograph made ready for the models.

    frame: RGB in [0, 1].
    camera: one view, the identity, with the frame's intrinsics; scene units as the module says.
    notes: what a person should know of how it was read, a sentence each.
    """

    frame: Float[Tensor, "3 h w"]
    camera: Cameras
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.frame.shape[1:] != (self.camera.height, self.camera.width):
            raise UserError(
                f"{self.source}: the frame is {self.frame.shape[1]}x{self.frame.shape[2]} but its camera"
                f" says {self.camera.height}x{self.camera.width}"
            )


def open_photo(
    path: Path | str,
    height: int,
    width: int,
    *,
    focal_35mm: float | int | None = None,
    background: Color = WHITE,
) -> Photo:
    """The photograph in a file: upright, its largest centred part of the wanted proportions, resized.

    focal_35mm: focal length of the whole photograph as its 35 mm equivalent [mm]; None takes EXIF's, and
        `DEFAULT_FOCAL_35MM` where there is none.
    background: colour in [0, 1] behind transparent pixels.

    Raises UserError as `read_image` does, for a side shorter than `MIN_SIDE`, and for a focal length outside
    `FOCAL_35MM_LIMITS`.
    """
    path = Path(path)
    lens = _read_lens(path)
    picture = open_picture(path)
    notes = [*_color_notes(picture, background), *lens.notes]
    focal, where = (focal_35mm, "as given") if focal_35mm is not None else lens.focal()
    diagonal = math.hypot(*picture.size)
    picture, factor = _shrunk(picture, height, width)
    image = to_rgb(picture, background, str(path))
    return _fitted(image, diagonal / factor, height, width, focal, where, str(path), notes)


def photo_from_frame(
    frame: Float[Tensor, "3 h w"],
    height: int,
    width: int,
    *,
    focal_35mm: float | int | None = None,
    source: str = "image",
) -> Photo:
    """As `open_photo` of RGB in [0, 1] that is in memory already."""
    focal, where = (focal_35mm, "as given") if focal_35mm is not None else _Lens().focal()
    diagonal = math.hypot(*frame.shape[1:])
    return _fitted(frame, diagonal, height, width, focal, where, source, [])


def _fitted(
    image: Float[Tensor, "3 h w"],
    diagonal_px: float,
    height: int,
    width: int,
    focal_35mm: float | int,
    where: str,
    source: str,
    notes: list[str],
) -> Photo:
    source_height, source_width = image.shape[1:]
    if min(source_height, source_width) < MIN_SIDE:
        raise UserError(
            f"{source}: the image is {source_height}x{source_width} pixels; expected at least {MIN_SIDE} on"
            " each side"
        )
    low, high = FOCAL_35MM_LIMITS
    if not low <= focal_35mm <= high:
        raise UserError(
            f"{source}: focal length is {focal_35mm:g} mm (35 mm equivalent), expected {low:g} to {high:g}"
        )
    frame, matrix = resize_and_crop(image, height, width)
    focal_px = focal_35mm * diagonal_px / FILM_DIAGONAL_MM
    intrinsics = matrix @ torch.tensor(
        [[focal_px, 0, source_width / 2], [0, focal_px, source_height / 2], [0, 0, 1]],
        dtype=torch.float64,
    )
    camera = Cameras(torch.eye(4)[None], intrinsics.float()[None], height, width)
    scale = float(matrix[0, 0])
    kept = height * width / (scale**2 * source_height * source_width)
    if kept < 0.99:
        notes.append(
            f"the middle {kept:.0%} of it is used, since {height}x{width} has other proportions"
        )
    if scale > 1:
        notes.append(f"{source_height}x{source_width} is small: enlarged {scale:.1f} times")
    angle = 2 * math.degrees(math.atan(0.5 * height / float(intrinsics[1, 1])))
    notes.append(
        f"focal length {focal_35mm:.3g} mm (35 mm equivalent) {where}: the frame spans {angle:.0f} degrees"
        " from top to bottom"
    )
    return Photo(frame, camera, source, tuple(notes))


def _shrunk(picture: Image.Image, height: int, width: int) -> tuple[Image.Image, int]:
    """A large picture made smaller by a whole factor, so that it takes no gigabytes as floats.

    It stays `SPARE` times the wanted size, for the filter that follows, and loses less than a pixel of the result
    at each edge.
    """
    factor = min(picture.height // (SPARE * height), picture.width // (SPARE * width))
    if factor < 2 or picture.mode not in ("L", "RGB", "RGBA", "CMYK"):
        return picture, 1
    left, top = (picture.width % factor) // 2, (picture.height % factor) // 2
    right, bottom = left + picture.width // factor * factor, top + picture.height // factor * factor
    return picture.reduce(factor, (left, top, right, bottom)), factor


def _color_notes(picture: Image.Image, background: Color) -> Iterator[str]:
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            colour = "#" + "".join(f"{round(255 * c):02x}" for c in background)
            shown = "white" if background == WHITE else colour
            yield f"it is transparent in places: they are shown {shown}"
    if picture.mode == "CMYK":
        yield "CMYK is converted without its colour profile: colours may be a little off"


@dataclass(frozen=True)
class _Lens:
    """What a photograph's EXIF says of the lens: equivalent focal length [mm], and where that is from."""

    focal_35mm: float | None = None
    notes: tuple[str, ...] = ()

    def focal(self) -> tuple[float, str]:
        if self.focal_35mm is None:
            return DEFAULT_FOCAL_35MM, "assumed, since EXIF tells none"
        return self.focal_35mm, "from EXIF"


def _read_lens(path: Path) -> _Lens:
    notes = []
    with failures_explained(path), Image.open(path) as picture:
        width, height = picture.size
        if getattr(picture, "is_animated", False):
            notes.append("it holds several pictures: the first is used")
        try:
            exif = picture.getexif()
            tags = dict(exif.get_ifd(ExifTags.IFD.Exif))
        except DECODING_ERRORS:
            notes.append("its EXIF is damaged and not used")
            return _Lens(None, tuple(notes))
    if exif.get(ExifTags.Base.Orientation, 1) in range(2, 9):
        notes.append("turned upright, as EXIF says")
    focal = equivalent_focal(tags, width, height)
    if focal is not None and not FOCAL_35MM_LIMITS[0] <= focal <= FOCAL_35MM_LIMITS[1]:
        notes.append(f"EXIF's focal length, {focal:g} mm, is not believed")
        focal = None
    return _Lens(focal, tuple(notes))


def equivalent_focal(tags: dict[int, Any], width: int, height: int) -> float | None:
    """The 35 mm-equivalent focal length [mm] that EXIF tells, of a picture stored with this size [px].

    Equivalent by the diagonal of the frame, as CIPA DCG-001 defines it. From FocalLengthIn35mmFilm, or
    from FocalLength and the sensor's pixel pitch. Where the picture has other proportions than EXIF's own
    size, it is taken to be cropped and not resized, so its angle is narrower. None where EXIF does not tell.
    """
    names = ExifTags.Base
    shot_width = _number(tags, names.ExifImageWidth) or width
    shot_height = _number(tags, names.ExifImageHeight) or height
    shot_diagonal = math.hypot(shot_width, shot_height)
    focal = _number(tags, names.FocalLengthIn35mmFilm)
    if not focal:
        pixels_per_unit = _number(tags, names.FocalPlaneXResolution)
        unit = MM_PER_UNIT.get(round(_number(tags, names.FocalPlaneResolutionUnit)) or 2)
        millimetres = _number(tags, names.FocalLength)
        if not (pixels_per_unit and unit and millimetres):
            return None
        focal = millimetres * pixels_per_unit / unit * FILM_DIAGONAL_MM / shot_diagonal
    diagonal = math.hypot(width, height)
    change = _proportions(width, height) / _proportions(shot_width, shot_height)
    is_cropped = diagonal < shot_diagonal and abs(change - 1) > 0.02
    return focal * shot_diagonal / diagonal if is_cropped else focal


def _proportions(width: float | int, height: float | int) -> float:
    """At least 1, whichever way the picture is turned."""
    return max(width, height) / min(width, height)


def _number(tags: dict[int, Any], tag: int) -> float:
    """A tag's value where it is a positive finite number, else 0."""
    try:
        value = float(tags[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
