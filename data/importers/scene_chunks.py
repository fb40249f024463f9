"""Scenes in `.torch` chunks, as pixelSplat's tools write them and MVSplat and others read them.

    FOLDER/index.json       which chunk each scene is in: {"KEY": "000012.torch"}
    FOLDER/000012.torch     torch.save of a list of scenes, about 100 MB:
        key          its name
        url          the video's address
        timestamps   int64 [n]
        cameras      float32 [n 18]: fx fy cx cy in shares of the image's size, two zeros, 3x4 world-to-camera
        images       n tensors, uint8: the bytes of a JPEG or PNG file each

Chunks are loaded without running what a pickle may hold (`weights_only`) and mapped into memory, so that one
scene can be read without the others.
"""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.importers.images import decode_picture
from data.importers.json_files import read_json_object
from data.importers.path_text import realestate10k_cameras
from data.importers.posed_scene import FrameFit, Frames, PosedScene, SceneRef, fit_pictures
from data.importers.recorded_path import RecordedPath
from data.left_out import LeftOut, Reason, left_out_for

INDEX_FILE = "index.json"
COLUMNS = 18


@dataclass(frozen=True)
class ChunkScenes:
    """The scenes of a folder of chunks."""

    folder: Path

    def list_scenes(self) -> list[SceneRef]:
        """All scenes, chunk by chunk; from the chunks themselves, which takes long, where there is no index."""
        index = self.folder / INDEX_FILE
        if index.is_file():
            content = read_json_object(index, "the name of a chunk for each scene's key")
            for key, chunk in content.items():
                if not isinstance(chunk, str):
                    raise UserError(f"{index}: {key!r} is {chunk!r}, expected a chunk's file name")
            found = [(chunk, key) for key, chunk in content.items()]
        else:
            chunks = sorted(self.folder.glob("*.torch"))
            found = [(chunk.name, _key(scene)) for chunk in chunks for scene in load_chunk(chunk)]
        twice = [key for key, count in Counter(key for _, key in found).items() if count > 1]
        if twice:
            raise UserError(
                f"{self.folder}: {len(twice)} scenes come twice; the first is {twice[0]}"
            )
        if not found:
            raise UserError(f"{self.folder}: its chunks hold no scenes")
        return [SceneRef(key, chunk) for chunk, key in sorted(found)]

    def open(self, scene: SceneRef, fit: FrameFit) -> PosedScene:
        """One of them; raises LeftOut."""
        path = self.folder / scene.place
        source = f"{path}: scene {scene.name}"
        with left_out_for(Reason.UNDECODABLE):
            found = next((s for s in _last_chunk(path) if _key(s) == scene.name), None)
        if found is None:
            raise LeftOut(Reason.MISSING, f"{source}: is not in the chunk that {INDEX_FILE} names")
        with left_out_for(Reason.CAMERAS):
            cameras = _cameras(found, source)
        images = found.get("images")
        if not isinstance(images, list) or len(images) != len(cameras.times):
            held = len(images) if isinstance(images, list) else "no"
            raise LeftOut(
                Reason.MISSING, f"{source}: {held} images for {len(cameras.times)} cameras"
            )
        assert cameras.intrinsics is not None
        reader = ChunkFrames(images, cameras.intrinsics, source)
        return PosedScene(scene.name, cameras.world_to_camera, reader)


@dataclass(frozen=True)
class ChunkFrames:
    """Frames that are encoded images in memory. shares: intrinsics in shares of an image's size."""

    images: list[Any]
    shares: Float[Tensor, "t 3 3"]
    source: str

    def __call__(self, views: Sequence[int], fit: FrameFit) -> Frames:
        def pictures(numbers: list[int]) -> Iterable[Float[Tensor, "3 h w"]]:
            return (self._decode(number) for number in numbers)

        return fit_pictures(views, pictures, self.shares, fit, self.source)

    def _decode(self, number: int) -> Float[Tensor, "3 h w"]:
        image = self.images[number]
        where = f"{self.source}: image {number}"
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 1:
            raise UserError(f"{where}: expected the bytes of an image file, as one row of uint8")
        return decode_picture(image.numpy().tobytes(), where)


def load_chunk(path: Path) -> list[dict[str, Any]]:
    """The scenes of a chunk, their tensors mapped into memory; raises UserError where it is not one."""
    try:
        chunk = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such chunk") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: can't be loaded as a chunk of scenes, or is damaged ({reason})"
        ) from error
    if not isinstance(chunk, list) or not all(isinstance(scene, dict) for scene in chunk):
        raise UserError(f"{path}: expected a list of scenes, each a dictionary")
    return chunk


@functools.lru_cache(maxsize=1)
def _last_chunk(path: Path) -> list[dict[str, Any]]:
    """Scenes come chunk by chunk, so the chunk that is open will often do."""
    return load_chunk(path)


def _key(scene: dict[str, Any]) -> str:
    return str(scene.get("key", ""))


def _cameras(scene: dict[str, Any], source: str) -> RecordedPath:
    rows, times = scene.get("cameras"), scene.get("timestamps")
    if not (isinstance(rows, Tensor) and rows.dim() == 2 and rows.shape[1] == COLUMNS):
        raise UserError(f"{source}: expected 'cameras' as a tensor of {COLUMNS} columns")
    if not (isinstance(times, Tensor) and times.shape == rows.shape[:1]):
        raise UserError(f"{source}: expected 'timestamps' as a tensor, one for each camera")
    if not bool(torch.isfinite(rows).all()):
        camera = int((~torch.isfinite(rows).all(dim=1)).double().argmax())
        raise UserError(f"{source}: camera {camera} has NaN or infinite entries")
    intrinsics, transforms = realestate10k_cameras(rows, lambda row: f"{source}: camera {row}")
    return RecordedPath.from_world_to_camera(source, transforms, intrinsics, times.double())
