"""Gaussians as GLB files (binary glTF 2.0), by the Khronos extension KHR_gaussian_splatting.

The scene is one primitive of points, in glTF's axes (x right, y up, z back), whose attributes are float32:

    POSITION                                        means
    KHR_gaussian_splatting:ROTATION                 unit quaternions, xyzw
    KHR_gaussian_splatting:SCALE                    standard deviations: linear, not logarithms
    KHR_gaussian_splatting:OPACITY                  0 to 1
    KHR_gaussian_splatting:SH_DEGREE_l_COEF_n       harmonics of degree l, n from 0 (m = -l) to 2 l
    COLOR_0                                         8 bits: for viewers that know no Gaussians and draw points

Names, types and the linear scale are those of the extension as it was ratified; drafts before 2026 had
logarithms there. Colours are display-referred sRGB, except for COLOR_0, which glTF has linear.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.durable_files import write_durably
from models.gaussians import SH_C0, Gaussians
from models.scenes.stored import flip_y_and_z, harmonics_of, scene_to_store

EXTENSION = "KHR_gaussian_splatting"
POINTS, ARRAY_BUFFER, FLOAT, UNSIGNED_BYTE = 0, 34962, 5126, 5121
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
GLB_MAGIC, GLB_VERSION = 0x46546C67, 2
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def save_glb(gaussians: Gaussians, path: str | Path) -> None:
    """Writes an unbatched scene as GLB; an existing file is replaced only by a complete one.

    RGB colours are written as spherical harmonics of degree 0. Raises UserError when the scene holds NaN or
    infinite values, or the file can't be written.
    """
    path = Path(path)
    scene = flip_y_and_z(scene_to_store(gaussians, path))
    harmonics = harmonics_of(scene)
    attributes: dict[str, NDArray[Any]] = {
        "POSITION": _float32(scene.means),
        f"{EXTENSION}:ROTATION": _float32(torch.nn.functional.normalize(scene.quats, dim=1).roll(-1, 1)),
        f"{EXTENSION}:SCALE": _float32(scene.scales),
        f"{EXTENSION}:OPACITY": _float32(scene.opacities[:, None].clamp(0, 1)),
        **{
            f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{n}": _float32(harmonics[:, degree**2 + n])
            for degree in range((scene.sh_degree or 0) + 1)
            for n in range(2 * degree + 1)
        },
        "COLOR_0": _point_colors(harmonics[:, 0], scene.opacities),
    }  # fmt: skip
    write_durably(path, _glb(attributes))


def _glb(attributes: Mapping[str, NDArray[Any]]) -> bytes:
    """The file of one primitive of points with these attributes, one row a point."""
    accessors, views, parts, size = [], [], [], 0
    for values in attributes.values():
        part = values.tobytes()
        views.append(
            {"buffer": 0, "byteOffset": size, "byteLength": len(part), "target": ARRAY_BUFFER}
        )
        accessors.append(_accessor(values, len(views) - 1))
        parts.append(part)
        size += len(part)
    positions = attributes["POSITION"]
    if len(positions):
        accessors[0] |= {
            "min": positions.min(axis=0).tolist(),
            "max": positions.max(axis=0).tolist(),
        }
    primitive = {
        "mode": POINTS,
        "attributes": {name: i for i, name in enumerate(attributes)},
        "extensions": {EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    content: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "stillscape"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]} if size else {}],
    }
    if size:
        content |= {
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": size}],
        }
    text = json.dumps(content, separators=(",", ":")).encode()
    chunks = _chunk(JSON_CHUNK, text, b" ")
    if size:
        chunks += _chunk(BINARY_CHUNK, b"".join(parts), b"\0")
    return struct.pack("<III", GLB_MAGIC, GLB_VERSION, 12 + len(chunks)) + chunks


def _chunk(kind: int, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<II", len(content), kind) + content


def _accessor(values: NDArray[Any], view: int) -> dict[str, Any]:
    is_float = values.dtype == np.float32
    accessor = {
        "bufferView": view,
        "componentType": FLOAT if is_float else UNSIGNED_BYTE,
        "count": len(values),
        "type": TYPES[values.shape[1]],
    }
    return accessor if is_float else {**accessor, "normalized": True}


def _float32(values: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.numpy().astype("<f4"))


def _point_colors(base: Tensor, opacities: Tensor) -> NDArray[np.uint8]:
    """Linear RGB and opacity, 8 bits each."""
    shown = (base * SH_C0 + 0.5).clamp(0, 1)
    linear = torch.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    rgba = torch.cat([linear, opacities[:, None].clamp(0, 1)], dim=1)
    return np.ascontiguousarray((rgba * 255).round().numpy().astype(np.uint8))
