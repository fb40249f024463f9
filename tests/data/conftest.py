"""Small clips for the tests of shards, loaders and what is built on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
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
