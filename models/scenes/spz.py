"""Gaussians as SPZ files, Niantic's compressed format: a third of a PLY's size or less.

The format is that of its reference implementation (github.com/nianticlabs/spz, `load-spz.cc`), version 3:
a gzip stream of a 16-byte header and then, attribute by attribute, for all Gaussians

    means        3 x 24-bit fixed point, with as many fractional bits as the header says
    opacities    8 bits, 0 to 1
    colours      3 x 8 bits, 0.5 + 0.15 x the harmonic of degree 0
    scales       3 x 8 bits, natural logarithm from -10 in steps of 1/16
    rotations    32 bits: which of x, y, z, w is largest, and the other three by sign and 9 bits
    harmonics    8 bits each, -1 to 1; degrees 1 and up, by Gaussian, coefficient, channel

in axes with x right, y up, z back; ours are turned when written and turned back when read.

So a file is lossy: means are off by up to half a step, which is 2^-20 scene units where the scene reaches 8
and doubles with its reach; scales by 3%, colours by 0.4%, rotations by 0.3 degrees. Version 2, which has its
rotations in 3 x 8 bits, is read too; version 4 is not, and few viewers read it.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from configs.errors import UserError
from data.durable_files import write_durably
from models.gaussians import Gaussians
from models.scenes.stored import colors_of, flip_y_and_z, harmonics_of, scene_to_store

MAGIC = 0x5053474E
HEADER = struct.Struct("<IIIBBBB")
VERSION, READABLE_VERSIONS = 3, (2, 3)
HAS_EXTENSIONS = 0x2
NUM_HARMONICS = {0: 0, 1: 3, 2: 8, 3: 15}
"""Coefficients above degree 0, by degree."""
MAX_GAUSSIANS = 10_000_000
"""Niantic's reader refuses more."""
MAX_DEFLATE_RATIO = 1032
"""What one byte of a gzip stream can hold at most."""

FIXED_POINT_LIMIT = (1 << 23) - 1
MAX_FRACTIONAL_BITS = 20
COLOR_SCALE = 0.15
LOG_SCALE_START, LOG_SCALE_STEPS = -10.0, 16.0
LARGEST_OF_THREE = math.sqrt(0.5)
"""No component of a unit quaternion but its largest exceeds this."""
MAGNITUDE_LIMIT = (1 << 9) - 1


@dataclass(frozen=True)
class Header:
    version: int
    num_gaussians: int
    sh_degree: int
    fractional_bits: int

    @property
    def rotation_bytes(self) -> int:
        return 4 if self.version >= 3 else 3

    @property
    def row_bytes(self) -> list[int]:
        """Bytes a Gaussian of each attribute, in their order in the file."""
        return [9, 1, 3, 3, self.rotation_bytes, 3 * NUM_HARMONICS[self.sh_degree]]


def save_spz(gaussians: Gaussians, path: str | Path) -> None:
    """Writes an unbatched scene as SPZ version 3; an existing file is replaced only by a complete one.

    Scales below e^-10 or above e^5.9, RGB below -0.44 or above 1.44, and harmonics above degree 0 beyond -1
    and 1 become the nearest that the format has. Raises UserError when the scene holds NaN or infinite values
    or more than `MAX_GAUSSIANS`, reaches further than the format does, or the file can't be written.
    """
    path = Path(path)
    scene = flip_y_and_z(scene_to_store(gaussians, path))
    if scene.num_gaussians > MAX_GAUSSIANS:
        raise UserError(
            f"{path}: {scene.num_gaussians:,} Gaussians are more than SPZ readers accept"
            f" ({MAX_GAUSSIANS:,}); write a PLY, or prune the scene first"
        )
    means = scene.means.numpy()
    bits = _fractional_bits(means, path)
    harmonics = harmonics_of(scene).numpy()
    degree = scene.sh_degree or 0
    header = HEADER.pack(MAGIC, VERSION, scene.num_gaussians, degree, bits, 0, 0)
    blocks = [
        _pack_fixed_point(means, bits),
        _to_bytes(255 * scene.opacities.numpy()),
        _to_bytes(255 * (0.5 + COLOR_SCALE * harmonics[:, 0])),
        _to_bytes((_log(scene.scales.numpy()) - LOG_SCALE_START) * LOG_SCALE_STEPS),
        _pack_rotations(scene.quats.numpy()),
        _to_bytes(128 + 128 * harmonics[:, 1:]),
    ]
    content = header + b"".join(block.tobytes() for block in blocks)
    write_durably(path, gzip.compress(content, mtime=0))


def load_spz(path: str | Path) -> Gaussians:
    """The scene in an SPZ file of version 2 or 3, float32, in our axes.

    Colours of degree 0 come back as RGB, clamped at 0 as a renderer would; higher degrees as coefficients
    `[n k 3]`. Raises UserError, naming the file, when it is missing, is no such file, or is damaged.
    """
    path = Path(path)
    header, content = _read(path)
    n = header.num_gaussians
    ends = np.cumsum([n * size for size in header.row_bytes])
    means, opacities, colors, scales, rotations, rest = (
        block.reshape(n, size)
        for block, size in zip(np.split(content, ends[:-1]), header.row_bytes, strict=True)
    )
    base = (colors / 255 - 0.5) / COLOR_SCALE
    higher = (rest.reshape(n, NUM_HARMONICS[header.sh_degree], 3) - 128.0) / 128
    harmonics = np.concatenate([base[:, None], higher], axis=1)
    unpack_rotations = _unpack_rotations if header.version >= 3 else _unpack_rotations_of_version_2
    stored = Gaussians(
        means=torch.from_numpy(_unpack_fixed_point(means, header.fractional_bits)),
        quats=torch.from_numpy(unpack_rotations(rotations)),
        scales=torch.from_numpy(np.exp(scales / LOG_SCALE_STEPS + LOG_SCALE_START)),
        opacities=torch.from_numpy(opacities[:, 0] / 255),
        colors=colors_of(torch.from_numpy(harmonics)),
    )
    return flip_y_and_z(stored).to(torch.float32)


def _read(path: Path) -> tuple[Header, UInt8[np.ndarray, " byte"]]:
    """The header and what follows it, of exactly the length that the header promises."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    damaged = f"{path}: is damaged or not an SPZ file"
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            header = _parse_header(stream.read(HEADER.size), path)
            size = header.num_gaussians * sum(header.row_bytes)
            # The header may promise anything: what it takes is read only if the file can hold it.
            if size > MAX_DEFLATE_RATIO * len(packed):
                raise UserError(
                    f"{path}: the header promises {header.num_gaussians:,} Gaussians, which"
                    f" {len(packed):,} bytes can't hold; it is truncated, or its header is wrong"
                )
            content = stream.read(size)
            if len(content) != size or stream.read(1):
                raise UserError(
                    f"{damaged}: {header.num_gaussians:,} Gaussians take {size:,} bytes, found"
                    f" {'more' if len(content) == size else f'{len(content):,}'}"
                )
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{damaged} ({error})") from error
    return header, np.frombuffer(content, np.uint8)


def _parse_header(start: bytes, path: Path) -> Header:
    if len(start) < HEADER.size or HEADER.unpack(start)[0] != MAGIC:
        raise UserError(f"{path}: is not an SPZ file (its first bytes are not NGSP)")
    _, version, count, degree, bits, flags, _ = HEADER.unpack(start)
    if version not in READABLE_VERSIONS:
        raise UserError(
            f"{path}: is SPZ version {version}; this program reads versions 2 and 3: convert it"
        )
    if count > MAX_GAUSSIANS or degree not in NUM_HARMONICS or bits > 23:
        raise UserError(
            f"{path}: the header makes no sense ({count:,} Gaussians, harmonics of degree {degree},"
            f" {bits} fractional bits)"
        )
    if flags & HAS_EXTENSIONS:
        raise UserError(f"{path}: has vendor extensions, which this program does not read")
    return Header(version, count, degree, bits)


def _fractional_bits(means: Float[np.ndarray, "n 3"], path: Path) -> int:
    """As many as leave room for the furthest mean."""
    extent = float(np.abs(means).max(initial=0.0))
    if extent > FIXED_POINT_LIMIT:
        raise UserError(
            f"{path}: the scene reaches {extent:.3g} units from its origin, SPZ at most"
            f" {FIXED_POINT_LIMIT:,}; write a PLY"
        )
    room = math.floor(math.log2(FIXED_POINT_LIMIT / extent)) if extent > 0 else MAX_FRACTIONAL_BITS
    return min(room, MAX_FRACTIONAL_BITS)


def _to_bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _log(scales: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return np.log(np.maximum(scales, math.exp(LOG_SCALE_START)))


def _pack_fixed_point(means: Float[np.ndarray, "n 3"], bits: int) -> UInt8[np.ndarray, "n 3 3"]:
    steps = np.rint(means * 2.0**bits).astype("<i4")
    return np.ascontiguousarray(steps).view(np.uint8).reshape(-1, 3, 4)[..., :3]


def _unpack_fixed_point(rows: NDArray[np.uint8], bits: int) -> Float[np.ndarray, "n 3"]:
    # In the upper three bytes of an int32, the sign comes by itself.
    wide = np.zeros((len(rows), 3, 4), np.uint8)
    wide[..., 1:] = rows.reshape(-1, 3, 3)
    steps: NDArray[np.int32] = wide.view("<i4")[..., 0] >> 8
    return steps / 2.0**bits


def _pack_rotations(quats: Float[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 4"]:
    """wxyz in 32 bits: two for the index of the largest of x, y, z, w, then ten for each of the others."""
    lengths = np.linalg.norm(quats, axis=1, keepdims=True)
    xyzw = np.roll(quats / np.where(lengths > 0, lengths, 1), -1, axis=1)
    rows = np.arange(len(xyzw))
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw = xyzw * np.where(xyzw[rows, largest] < 0, -1, 1)[:, None]
    others = np.sort((largest[:, None] + [1, 2, 3]) % 4, axis=1)
    values = np.take_along_axis(xyzw, others, axis=1)
    magnitudes = np.rint(np.abs(values) / LARGEST_OF_THREE * MAGNITUDE_LIMIT).astype(np.uint32)
    tens = (values < 0).astype(np.uint32) << 9 | magnitudes
    packed = largest.astype(np.uint32) << 30 | tens[:, 0] << 20 | tens[:, 1] << 10 | tens[:, 2]
    return packed.astype("<u4")[:, None].view(np.uint8)


def _unpack_rotations(rows: NDArray[np.uint8]) -> Float[np.ndarray, "n 4"]:
    packed = np.ascontiguousarray(rows).view("<u4")[:, 0]
    largest = (packed >> 30).astype(np.int64)
    tens = packed[:, None] >> np.array([20, 10, 0], np.uint32) & 0x3FF
    values = (tens & MAGNITUDE_LIMIT) / MAGNITUDE_LIMIT * LARGEST_OF_THREE
    values = np.where(tens >> 9 == 1, -values, values)
    xyzw = np.zeros((len(rows), 4))
    others = np.sort((largest[:, None] + [1, 2, 3]) % 4, axis=1)
    each = np.arange(len(rows))
    xyzw[each[:, None], others] = values
    xyzw[each, largest] = np.sqrt(np.maximum(0.0, 1 - (values**2).sum(axis=1)))
    return _unit(np.roll(xyzw, 1, axis=1))


def _unpack_rotations_of_version_2(rows: NDArray[np.uint8]) -> Float[np.ndarray, "n 4"]:
    """x, y, z from -1 to 1 in 8 bits each; w is what is missing to a length of 1."""
    xyz = rows / 127.5 - 1
    w = np.sqrt(np.maximum(0.0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return _unit(np.concatenate([w, xyz], axis=1))


def _unit(quats: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)
