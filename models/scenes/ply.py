"""Gaussians as PLY files, under the attribute names of 3D Gaussian Splatting (Kerbl et al. 2023).

    x y z                   mean
    f_dc_0 .. f_dc_2        degree 0 of the spherical harmonics, one a channel
    f_rest_0 ..             degrees 1 and up: all coefficients of red, then of green, then of blue
    opacity                 as a logit
    scale_0 .. scale_2      as natural logarithms
    rot_0 .. rot_3          quaternion, wxyz

World axes are written as they are (OpenCV: y down, z forward), as 3DGS does with COLMAP's: viewers made for such
files turn them upright.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyParseError

from configs.errors import UserError
from models.gaussians import Gaussians
from models.scenes.stored import colors_of, harmonics_of, scene_to_store

MEAN = ("x", "y", "z")
COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = (*MEAN, *COLOR, "opacity", *SCALE, *ROTATION)
NUM_REST = {0: 0, 9: 1, 24: 2, 45: 3}
"""Spherical-harmonic degree by number of f_rest attributes."""

END_OF_HEADER = b"end_header"
MAX_HEADER = 1 << 20
"""Bytes in which a header has to end."""
OPACITY_MARGIN = 1e-7
"""Opacities nearer to 0 or 1 than this are written as this near, since their logits would be infinite."""
MIN_SCALE = 1e-30
TYPE_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


def save_ply(gaussians: Gaussians, path: str | Path) -> None:
    """Writes an unbatched scene as binary PLY; an existing file is replaced only by a complete one.

    RGB colours are written as spherical harmonics of degree 0. Raises UserError when the scene holds NaN or infinite
    values, or the file cannot be written.
    """
    path = Path(path)
    scene = scene_to_store(gaussians, path)
    harmonics = harmonics_of(scene)
    base, rest = harmonics[:, 0], harmonics[:, 1:].mT.flatten(1)
    opacities = scene.opacities.clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    columns = torch.cat(
        [
            scene.means,
            base,
            rest,
            torch.logit(opacities)[:, None],
            scene.scales.clamp(min=MIN_SCALE).log(),
            scene.quats,
        ],
        dim=1,
    )
    names = [*MEAN, *COLOR, *rest_names(rest.shape[1]), "opacity", *SCALE, *ROTATION]
    vertices = np.ascontiguousarray(columns.numpy().astype("<f4"))
    vertices = vertices.view([(name, "<f4") for name in names])[:, 0]
    write_atomically(PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<"), path)


def write_atomically(ply: PlyData, path: Path) -> None:
    """Writes beside `path` first, then renames, so that no half-written file ever has that name."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            ply.write(file)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; a scene gets the permissions of any new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_ply(path: str | Path) -> Gaussians:
    """The scene in a 3DGS PLY file, float32, quaternions normalised.

    Binary (either byte order) or ASCII, with or without normals and other extra attributes. Colours of degree 0 come
    back as RGB, clamped at 0 as a renderer would; higher degrees as coefficients `[n k 3]`.

    Raises UserError, naming the file, when it is missing, is no PLY file of Gaussians, is shorter than its header
    says, or holds NaN or values out of range.
    """
    path = Path(path)
    vertices = read_vertices(path)
    names = vertices.dtype.names or ()
    num_rest = sum(name.startswith("f_rest_") for name in names)

    def columns(wanted: tuple[str, ...]) -> torch.Tensor:
        if not wanted:
            return torch.zeros(len(vertices), 0, dtype=torch.float64)
        return torch.from_numpy(
            np.stack([vertices[name] for name in wanted], -1).astype(np.float64)
        )

    base = columns(COLOR)
    rest = columns(tuple(rest_names(num_rest))).unflatten(1, (3, num_rest // 3)).mT
    quats = columns(ROTATION)
    if len(quats) and quats.norm(dim=1).min() == 0:
        raise UserError(
            f"{path}: {(quats == 0).all(1).sum()} Gaussians have a rotation of length 0"
        )
    gaussians = Gaussians(
        means=columns(MEAN),
        quats=torch.nn.functional.normalize(quats, dim=1),
        scales=columns(SCALE).exp(),
        opacities=torch.sigmoid(columns(("opacity",))[:, 0]),
        colors=colors_of(torch.cat([base[:, None], rest], dim=1)),
    ).to(torch.float32)
    for name, tensor in gaussians.tensors().items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} are NaN, infinite or too large for float32")
    return gaussians


def rest_names(num_rest: int) -> list[str]:
    return [f"f_rest_{i}" for i in range(num_rest)]


def read_vertices(path: Path) -> NDArray[Any]:
    """The checked vertex table of a PLY file, one row a Gaussian."""
    check_header(path)
    try:
        # Mapped files can't be replaced everywhere, and a truncated one would end the process.
        table = PlyData.read(str(path), mmap=False)["vertex"].data
    except (PlyParseError, ValueError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged ({error})") from error
    assert isinstance(table, np.ndarray)
    for name in table.dtype.names or ():
        values = table[name]
        if values.dtype.kind == "f" and np.isnan(values).any():
            first = int(np.isnan(values).argmax())
            raise UserError(f"{path}: attribute {name} is NaN for Gaussian {first}")
    return table


@dataclass
class Element:
    """One `element` of a header: its attributes' types by name, "list" for one of variable length."""

    name: str
    count: int
    attributes: dict[str, str]

    def min_size(self, is_ascii: bool) -> int:
        """The fewest bytes that it can take in the file."""
        if is_ascii:
            # Every value has at least one digit and a separator; the last line may lack its own.
            return max(0, 2 * len(self.attributes) * self.count - 1)
        return self.count * sum(TYPE_SIZES.get(t, 1) for t in self.attributes.values())


def check_header(path: Path) -> None:
    """Raises UserError unless the header describes Gaussians and the file is long enough for it.

    The reader would allocate whatever the header says, so this comes first.
    """
    try:
        with path.open("rb") as file:
            start = file.read(MAX_HEADER)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start.startswith(b"ply"):
        raise UserError(f"{path}: is not a PLY file (it does not start with 'ply')")
    end = start.find(END_OF_HEADER)
    if end < 0:
        raise UserError(f"{path}: the PLY header has no end in its first {len(start)} bytes")
    is_ascii, elements = parse_header(path, start[:end].decode("ascii", errors="replace"))
    by_name = {element.name: element for element in elements}
    if "vertex" not in by_name:
        raise UserError(f"{path}: has no 'vertex' element; found {', '.join(by_name) or 'nothing'}")
    check_attributes(path, by_name["vertex"].attributes)
    needed = end + len(END_OF_HEADER) + 1 + sum(element.min_size(is_ascii) for element in elements)
    if needed > size:
        raise UserError(
            f"{path}: the header promises {by_name['vertex'].count} Gaussians, at least {needed} bytes, but the"
            f" file has {size}; it is truncated, or its header is wrong"
        )


def parse_header(path: Path, text: str) -> tuple[bool, list[Element]]:
    """Whether the body is ASCII, and the elements."""
    is_ascii = False
    elements: list[Element] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        try:
            match words:
                case ["format", kind, _]:
                    is_ascii = kind == "ascii"
                case ["element", name, count]:
                    if int(count) < 0:
                        raise ValueError
                    elements.append(Element(name, int(count), {}))
                case ["property", "list", _, _, name]:
                    elements[-1].attributes[name] = "list"
                case ["property", kind, name]:
                    if kind not in TYPE_SIZES:
                        raise ValueError
                    elements[-1].attributes[name] = kind
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}: header line {number} makes no sense: '{line}'") from error
    return is_ascii, elements


def check_attributes(path: Path, attributes: dict[str, str]) -> None:
    """Raises UserError unless a vertex has all that a Gaussian needs."""
    if "packed_position" in attributes:
        raise UserError(
            f"{path}: is a compressed PLY (packed_position); convert it to a plain 3DGS PLY first, for"
            " instance with SuperSplat"
        )
    missing = [name for name in REQUIRED if name not in attributes]
    if missing:
        is_points = set(MEAN) <= set(attributes) and "scale_0" not in attributes
        hint = "; this looks like a point cloud or mesh, not Gaussians" if is_points else ""
        raise UserError(f"{path}: lacks the attributes {', '.join(missing)}{hint}")
    lists = [name for name in attributes if attributes[name] == "list"]
    if lists:
        raise UserError(f"{path}: attribute {lists[0]} is a list; expected one number a Gaussian")
    rest = [name for name in attributes if name.startswith("f_rest_")]
    if len(rest) not in NUM_REST or set(rest) != set(rest_names(len(rest))):
        raise UserError(
            f"{path}: has {len(rest)} f_rest attributes; expected f_rest_0 to f_rest_k with 0, 9, 24 or 45 in all"
            " (spherical harmonics of degree 0 to 3)"
        )
