"""The bytes of one sample: a run of tar members that hold one clip.

    KEY.000.png ... KEY.024.png   frames, 8-bit RGB (or .jpg)
    KEY.cameras.json              poses, intrinsics [px], and what else the clip says of itself
    KEY.depth.safetensors         z-depth "depth" [t h w], scene units, 0 where unknown; optional

The same clip gives the same bytes. `ShardClip` reads them lazily: cameras at once, frames when asked for.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.shard_index import DamagedSample, SampleFormat, SampleRecord

IMAGE_SUFFIX = {"png": "png", "jpeg": "jpg"}
FLOAT16_MAX = 65504.0
JPEG_FULL_CHROMA = 0


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready to be appended to a shard; its record's offset is still 0."""

    content: bytes
    record: SampleRecord
    height: int
    width: int


def encode_clip(clip: Clip, key: str, sample_format: SampleFormat) -> EncodedSample:
    """The clip as tar members; the same clip gives the same bytes.

    Frames are rounded to 8 bits. Depths that are not finite, or too large for float16 where that is the
    format, become 0 (unknown). Raises UserError where the cameras are not valid.
    """
    clip.cameras.validate(clip.source)
    # Frame by frame, here and below: a large clip takes most of a process's memory.
    if not all(torch.isfinite(frame).all() for frame in clip.frames):
        raise UserError(
            f"{clip.source}: frames have NaN or infinite pixels; expected values in [0, 1]"
        )
    members = {
        f"{view:03d}.{IMAGE_SUFFIX[sample_format.image]}": _encode_image(frame, sample_format)
        for view, frame in enumerate(clip.frames)
    }
    members["cameras.json"] = _encode_cameras(clip)
    if clip.depth is not None and sample_format.depth != "none":
        half = sample_format.depth == "float16"
        limit = FLOAT16_MAX if half else float("inf")
        known = torch.isfinite(clip.depth) & (clip.depth > 0) & (clip.depth <= limit)
        depth = torch.where(known, clip.depth, 0).to(torch.float16 if half else torch.float32)
        members["depth.safetensors"] = safetensors.torch.save({"depth": depth.contiguous()})
    encoded = encode_members(key, members)
    counts = {"num_frames": clip.num_frames, "num_path_frames": clip.num_path_frames}
    return EncodedSample(
        encoded.content,
        encoded.record.model_copy(update=counts),
        clip.cameras.height,
        clip.cameras.width,
    )


def encode_members(key: str, members: dict[str, bytes]) -> EncodedSample:
    """Named files as one sample of a tar file, without owner, time or anything else that varies."""
    parts = []
    for suffix, content in members.items():
        header = tarfile.TarInfo(f"{key}.{suffix}")
        header.size = len(content)
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        parts += [header.tobuf(tarfile.USTAR_FORMAT), content, padding]
    content = b"".join(parts)
    record = SampleRecord(
        key=key,
        offset=0,
        size=len(content),
        crc32=zlib.crc32(content),
        num_frames=0,
        num_path_frames=0,
    )
    return EncodedSample(content, record, 0, 0)


def decode_members(
    content: bytes, key: str, damaged: Callable[[str], Exception]
) -> dict[str, bytes]:
    """The files of a sample by their suffix ("000.png"); raises `damaged(reason)` where it is not one."""
    members: dict[str, bytes] = {}
    start = 0
    while start < len(content):
        try:
            header = tarfile.TarInfo.frombuf(
                content[start : start + tarfile.BLOCKSIZE], "utf-8", "strict"
            )
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise damaged(f"not a tar member at byte {start:,} of the sample") from error
        start += tarfile.BLOCKSIZE
        name, _, suffix = header.name.partition(".")
        if name != key or not header.isreg() or start + header.size > len(content):
            raise damaged(f"holds {header.name!r}, expected whole files named {key}.*")
        members[suffix] = content[start : start + header.size]
        start += header.size + -header.size % tarfile.BLOCKSIZE
    return members


class ShardClip:
    """One stored clip, of which only the cameras have been decoded: choose views first, then `load`.

    cameras: all views, relative to the clip's first frame, float32.
    num_path_frames, source, caption, scale: as in `Clip`.
    tensors: gives this clip's entry of a named set of tensors in the same folder (precomputed latents).
    """

    def __init__(
        self,
        content: bytes,
        record: SampleRecord,
        file: Path,
        tensors: Callable[[str], dict[str, Tensor]],
    ) -> None:
        self.key = record.key
        self.file = file
        self.tensors = tensors
        self._members = decode_members(content, record.key, self._damaged)
        self._images = sorted(s for s in self._members if s.endswith((".png", ".jpg")))
        self._read_cameras()
        found = (len(self._images), self.cameras.num_views, self.num_path_frames)
        if found != (record.num_frames, record.num_frames, record.num_path_frames):
            raise self._damaged(
                f"has {found[0]} frames, {found[1]} cameras and {found[2]} path frames, but the index"
                f" says {record.num_frames} frames and {record.num_path_frames} path frames"
            )

    @property
    def num_frames(self) -> int:
        return len(self._images)

    @property
    def has_depth(self) -> bool:
        return "depth.safetensors" in self._members

    def load(self, views: Sequence[int] | None = None, *, depth: bool = True) -> Clip:
        """The given views in the given order, all counted as path frames; all of them without `views`.

        Cameras stay relative to the stored clip's first frame. Only these frames are decoded, and depth
        only where `depth` is true. Raises DamagedSample where a file does not decode to what it should.
        """
        chosen = list(range(self.num_frames)) if views is None else [int(view) for view in views]
        images = np.stack([self._decode_image(self._images[view]) for view in chosen])
        frames = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
        return Clip(
            frames=frames.contiguous(),
            cameras=self.cameras.select(chosen),
            source=self.source,
            num_path_frames=self.num_path_frames if views is None else len(chosen),
            caption=self.caption,
            depth=self._decode_depth()[chosen] if depth and self.has_depth else None,
            scale=self.scale,
        )

    def _read_cameras(self) -> None:
        try:
            fields = json.loads(self._members["cameras.json"])
            world_to_camera = torch.tensor(fields["world_to_camera"], dtype=torch.float32)
            intrinsics = torch.tensor(fields["intrinsics"], dtype=torch.float32)
            height, width = int(fields["height"]), int(fields["width"])
            self.num_path_frames = int(fields["num_path_frames"])
            self.scale = float(fields["scale"])
            self.source, self.caption = str(fields["source"]), str(fields["caption"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self._damaged(f"cameras.json is missing or malformed ({error!r})") from error
        shapes = (tuple(world_to_camera.shape[1:]), tuple(intrinsics.shape[1:]))
        if shapes != ((4, 4), (3, 3)) or len(world_to_camera) != len(intrinsics):
            raise self._damaged(
                f"{len(world_to_camera)} poses of {shapes[0]} but {len(intrinsics)} intrinsics of"
                f" {shapes[1]}; expected one (4, 4) and one (3, 3) a frame"
            )
        self.cameras = Cameras(world_to_camera, intrinsics, height, width)

    def _decode_image(self, suffix: str) -> UInt8[np.ndarray, "h w 3"]:
        expected = (self.cameras.width, self.cameras.height)
        try:
            with Image.open(io.BytesIO(self._members[suffix]), formats=("PNG", "JPEG")) as image:
                if image.size != expected:
                    raise self._damaged(
                        f"{suffix} is {image.size[1]}x{image.size[0]} but the cameras say"
                        f" {expected[1]}x{expected[0]}"
                    )
                if image.mode != "RGB":
                    raise self._damaged(f"{suffix} is a {image.mode} image, expected RGB")
                return np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise self._damaged(f"{suffix} does not decode ({error})") from error

    def _decode_depth(self) -> Float[Tensor, "t h w"]:
        try:
            depth = safetensors.torch.load(self._members["depth.safetensors"])["depth"]
        except (KeyError, safetensors.SafetensorError) as error:
            raise self._damaged(f"depth.safetensors does not decode ({error})") from error
        expected = (self.num_frames, self.cameras.height, self.cameras.width)
        if tuple(depth.shape) != expected:
            raise self._damaged(f"depth has shape {tuple(depth.shape)}, expected {expected}")
        return depth.float()

    def _damaged(self, reason: str) -> DamagedSample:
        return DamagedSample(self.file, self.key, reason)


def _encode_image(frame: Float[Tensor, "3 h w"], sample_format: SampleFormat) -> bytes:
    levels = (frame.float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)
    target = io.BytesIO()
    image = Image.fromarray(levels.contiguous().numpy())
    if sample_format.image == "png":
        image.save(target, format="PNG")
    else:
        image.save(
            target,
            format="JPEG",
            quality=sample_format.jpeg_quality,
            subsampling=JPEG_FULL_CHROMA,
        )
    return target.getvalue()


def _encode_cameras(clip: Clip) -> bytes:
    cameras = clip.cameras
    fields = {
        "world_to_camera": cameras.world_to_camera.float().tolist(),
        "intrinsics": cameras.intrinsics.float().tolist(),
        "height": cameras.height,
        "width": cameras.width,
        "num_path_frames": clip.num_path_frames,
        "scale": clip.scale,
        "source": clip.source,
        "caption": clip.caption,
    }
    return json.dumps(fields).encode()
