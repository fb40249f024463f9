"""Whether the files of a binary COLMAP model are whole: pycolmap hangs on one that is cut short.

Record layouts are those of COLMAP's documentation ("Output format"): little-endian, no padding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

from configs.errors import UserError

SENSOR_BYTES = 8
TRANSFORM_BYTES = 7 * 8


class _Cursor:
    """Steps over the fields of a file; IndexError past its end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self.content):
            raise IndexError

    def read(self, layout: str) -> int:
        start = self.position
        self.skip(struct.calcsize(layout))
        return int(struct.unpack_from(layout, self.content, start)[0])

    def skip_string(self) -> None:
        end = self.content.find(b"\0", self.position)
        if end < 0:
            raise IndexError
        self.position = end + 1


def check_binary_model(folder: Path) -> None:
    """Raises UserError that names the first binary file of a model that is cut short or too long."""
    for name, skip_record in RECORDS.items():
        path = folder / name
        if not path.is_file():
            continue
        cursor = _Cursor(path.read_bytes())
        try:
            for _ in range(cursor.read("<Q")):
                skip_record(cursor)
        except IndexError as error:
            raise UserError(
                f"{path} is damaged: it ends in the middle of a record, at byte"
                f" {len(cursor.content)}; copy or export the model again"
            ) from error
        if cursor.position != len(cursor.content):
            raise UserError(
                f"{path} is damaged: its records end at byte {cursor.position} but the file has"
                f" {len(cursor.content)}; copy or export the model again"
            )


def _skip_camera(cursor: _Cursor) -> None:
    cursor.skip(4)
    model = cursor.read("<i")
    cursor.skip(16 + 8 * _num_parameters(model))


@cache
def _num_parameters(model: int) -> int:
    import pycolmap

    try:
        return len(
            pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1, 1, 1).params
        )
    except ValueError as error:
        raise UserError(f"cameras.bin has an unknown camera model, number {model}") from error


def _skip_image(cursor: _Cursor) -> None:
    cursor.skip(4 + TRANSFORM_BYTES + 4)
    cursor.skip_string()
    cursor.skip(24 * cursor.read("<Q"))


def _skip_point(cursor: _Cursor) -> None:
    cursor.skip(8 + 3 * 8 + 3 + 8)
    cursor.skip(8 * cursor.read("<Q"))


def _skip_rig(cursor: _Cursor) -> None:
    cursor.skip(4)
    num_sensors = cursor.read("<I")
    if num_sensors:
        cursor.skip(SENSOR_BYTES)
    for _ in range(num_sensors - 1):
        cursor.skip(SENSOR_BYTES)
        if cursor.read("<B"):
            cursor.skip(TRANSFORM_BYTES)


def _skip_frame(cursor: _Cursor) -> None:
    cursor.skip(4 + 4 + TRANSFORM_BYTES)
    cursor.skip((SENSOR_BYTES + 8) * cursor.read("<I"))


RECORDS: dict[str, Callable[[_Cursor], None]] = {
    "cameras.bin": _skip_camera,
    "images.bin": _skip_image,
    "points3D.bin": _skip_point,
    "rigs.bin": _skip_rig,
    "frames.bin": _skip_frame,
}
