"""Small clips for the tests of shards, loaders and what is built on them."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from data.importers.images import to_picture, write_image
from data.procedural.clips import make_clip as procedural_clip
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex
from data.shard_writing import write_shards

HEIGHT, WIDTH = 16, 24

MakeClip = Callable[..., Clip]
MakeShards = Callable[..., ShardIndex]


@pytest.fixture(scope="session")
def make_clip() -> MakeClip:
    """Makes a clip of random frames (exact in 8 bits), cameras and depth that is a function of its seed."""

    def make(
        seed: int = 0, num_frames: int = 12, num_path_frames: int = 9, height: int = HEIGHT
    ) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, (num_frames, 3, height, WIDTH), generator=generator)
        turns = 0.2 * torch.randn(num_frames, 3, generator=generator)
        world_to_camera = torch.eye(4).repeat(num_frames, 1, 1)
        rotations = Rotation.from_rotvec(turns.numpy()).as_matrix()
        world_to_camera[:, :3, :3] = torch.from_numpy(rotations).float()
        world_to_camera[:, :3, 3] = 0.3 * torch.randn(num_frames, 3, generator=generator)
        world_to_camera[0] = torch.eye(4)
        intrinsics = intrinsics_from_fov(50.0, height, WIDTH).expand(num_frames, 3, 3)
        return Clip(
            frames=pixels.float() / 255,
            cameras=Cameras(world_to_camera, intrinsics, height, WIDTH),
            source=f"test/{seed:04d}",
            num_path_frames=num_path_frames,
            caption=f"number {seed}",
            depth=0.5 + torch.rand(num_frames, height, WIDTH, generator=generator),
            scale=1.0 + seed,
        )

    return make


@pytest.fixture
def make_shards(make_clip: MakeClip, tmp_path: Path) -> MakeShards:
    """Writes clips of seeds 0 to `num_clips` - 1 to a new folder; gives its index."""

    def make(num_clips: int = 7, name: str = "shards", clips_per_shard: int = 3) -> ShardIndex:
        clips = (make_clip(seed) for seed in range(num_clips))
        return write_shards(clips, tmp_path / name, clips_per_shard=clips_per_shard)

    return make


@pytest.fixture
def shards(make_shards: MakeShards) -> ShardIndex:
    """Seven clips in three shards (3, 3, 1)."""
    return make_shards()


# Scenes as data sets have them on disk.


@dataclass(frozen=True)
class Walk:
    """A procedural scene filmed by a camera that walks through it: what a data set's files are written from.

    frames: [t 3 h w], exact in 8 bits. cameras: float64, in world axes and a unit of length that are a set's own.
    depth: of the first frame, in that unit.
    """

    frames: torch.Tensor
    cameras: Cameras
    depth: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """RealEstate10K's 18 numbers a frame: fx fy cx cy by the image's size, two zeros, world-to-camera."""
        rows = torch.zeros(len(self.frames), 18, dtype=torch.float64)
        height, width = self.cameras.height, self.cameras.width
        for row, matrix, transform in zip(
            rows, self.cameras.intrinsics, self.cameras.world_to_camera, strict=True
        ):
            row[0], row[1] = matrix[0, 0] / width, matrix[1, 1] / height
            row[2], row[3] = matrix[0, 2] / width, matrix[1, 2] / height
            row[6:] = transform[:3].flatten()
        return rows


MakeWalk = Callable[..., Walk]


@pytest.fixture(scope="session")
def make_walk() -> MakeWalk:
    """Makes the walk of a seed; 0, 1, 2, 4, 6 and 7 have parallax that a plane sweep can tell."""

    @functools.cache
    def make(seed: int, num_frames: int = 33, height: int = 48, width: int = 72) -> Walk:
        config = SceneConfig(
            height=height,
            width=width,
            num_frames=num_frames,
            num_near=0,
            num_far=0,
            supersampling=1,
            travel=(0.5, 1.0),
        )
        clip = procedural_clip(seed, config)
        turn = Rotation.random(random_state=seed).as_matrix()
        world = torch.eye(4, dtype=torch.float64)
        world[:3, :3] = torch.from_numpy(turn)
        world[:3, 3] = torch.tensor([3.0, -2.0, 5.0])
        unit = 1.7 + seed
        cameras = clip.cameras.to(torch.float64).rescaled(1 / unit)
        cameras = dataclasses.replace(cameras, world_to_camera=cameras.world_to_camera @ world)
        frames = (clip.frames * 255).round() / 255
        return Walk(frames, cameras, clip.depth[0] * unit)

    return make


@pytest.fixture
def check_clip() -> Callable[..., None]:
    """Holds a stored clip against the walk that it was cut from: exact frames, the cameras' places and lenses."""

    def check(clip: Clip, walk: Walk, views: Sequence[int], frame_atol: float = 0.5 / 255) -> None:
        assert clip.num_frames == len(views)
        torch.testing.assert_close(clip.frames, walk.frames[list(views)], rtol=0, atol=frame_atol)
        truth = walk.cameras.select(views)
        truth = truth.relative_to(0).rescaled(clip.scale).to(torch.float32)
        torch.testing.assert_close(
            clip.cameras.world_to_camera, truth.world_to_camera, rtol=0, atol=2e-5
        )
        torch.testing.assert_close(clip.cameras.intrinsics, truth.intrinsics, rtol=1e-5, atol=1e-4)

    return check


@pytest.fixture
def write_camera_file() -> Callable[..., list[int]]:
    """Writes a walk's camera file as RealEstate10K has it; gives the timestamps in it."""

    def write(walk: Walk, path: Path, address: str = "", start_us: int = 52_553_000) -> list[int]:
        times = [start_us + round(i * 1_001_000 / 30) for i in range(len(walk.frames))]
        lines = [address or "https://www.youtube.com/watch?v=abc-DEF_123"]
        for time, row in zip(times, walk.rows.tolist(), strict=True):
            lines.append(" ".join([str(time), *(f"{value:.9f}" for value in row)]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return times

    return write


@pytest.fixture
def write_frames() -> Callable[..., None]:
    """Writes a walk's frames as PNG files of the given stems."""

    def write(walk: Walk, folder: Path, stems: Sequence[object]) -> None:
        folder.mkdir(parents=True)
        for frame, stem in zip(walk.frames, stems, strict=True):
            write_image(frame, folder / f"{stem}.png")

    return write


@pytest.fixture
def write_chunks() -> Callable[..., None]:
    """Writes walks as chunks, as pixelSplat's tools do: two scenes a chunk, and an index."""

    def write(walks: dict[str, Walk], folder: Path, image_format: str = "PNG") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        index = {}
        for start in range(0, len(walks), 2):
            name = f"{start // 2:06d}.torch"
            chunk = []
            for key, walk in list(walks.items())[start : start + 2]:
                index[key] = name
                images = []
                for frame in walk.frames:
                    target = io.BytesIO()
                    to_picture(frame).save(target, format=image_format, quality=95)
                    images.append(torch.tensor(list(target.getvalue()), dtype=torch.uint8))
                chunk.append(
                    {
                        "url": "https://www.youtube.com/watch?v=abc",
                        "timestamps": torch.arange(len(images)) * 33_367,
                        "cameras": walk.rows.float(),
                        "images": images,
                        "key": key,
                    }
                )
            torch.save(chunk, folder / name)
        (folder / "index.json").write_text(json.dumps(index))

    return write


@pytest.fixture
def write_transforms() -> Callable[..., None]:
    """Writes a walk as DL3DV does: transforms.json for `images/`, the images in `folder`, of 1 / `shrink` the size."""

    def write(walk: Walk, scene: Path, folder: str = "images_4", shrink: int = 4) -> None:
        (scene / folder).mkdir(parents=True)
        opengl = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
        frames = []
        for i in range(len(walk.frames)):
            name = f"frame_{i + 1:05d}.png"
            write_image(walk.frames[i], scene / folder / name)
            to_world = torch.linalg.inv(walk.cameras.world_to_camera[i]) @ opengl
            frames.append({"file_path": f"images/{name}", "transform_matrix": to_world.tolist()})
        matrix = walk.cameras.intrinsics[0] * shrink
        content = {
            "w": walk.cameras.width * shrink,
            "h": walk.cameras.height * shrink,
            "fl_x": matrix[0, 0].item(),
            "fl_y": matrix[1, 1].item(),
            "cx": matrix[0, 2].item(),
            "cy": matrix[1, 2].item(),
            "k1": 0.0,
            "k2": 0.0,
            "p1": 0.0,
            "p2": 0.0,
            "camera_model": "OPENCV",
            "frames": frames[::-1],
        }
        (scene / "transforms.json").write_text(json.dumps(content))

    return write
