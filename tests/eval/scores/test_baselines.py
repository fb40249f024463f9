"""Baselines on scenes whose right answer is known: a pattern painted on a plane."""

from __future__ import annotations

import math

import pytest
import torch

from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from eval.images import metrics
from eval.scores import baselines

HEIGHT, WIDTH = 48, 64


def cameras_at(positions, turns_deg=None) -> Cameras:
    """Cameras that look along +z, each turned about y."""
    to_world = torch.eye(4).repeat(len(positions), 1, 1)
    to_world[:, :3, 3] = torch.tensor(positions, dtype=torch.float32)
    for view, turn in enumerate(turns_deg or []):
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        to_world[view, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    intrinsics = intrinsics_from_fov(50.0, HEIGHT, WIDTH).expand(len(positions), 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, HEIGHT, WIDTH)


def plane_points(cameras: Cameras, depth: float) -> torch.Tensor:
    """Where each pixel's ray meets the plane z = depth of the world."""
    origins, directions = cameras.rays()
    distance = (depth - origins[:, None, None, 2]) / directions[..., 2]
    return origins[:, None, None] + distance[..., None] * directions


def plane_frames(cameras: Cameras, depth: float) -> torch.Tensor:
    """A smooth pattern painted on that plane, as each camera sees it."""
    x, y, _ = plane_points(cameras, depth).unbind(-1)
    waves = torch.stack([torch.sin(5 * x), torch.cos(7 * y), torch.sin(4 * (x + y))], dim=1)
    return 0.5 + 0.4 * waves


def seen_by(source: Cameras, target: Cameras, depth: float) -> torch.Tensor:
    """Which of the target's pixels show a part of the plane that the source saw too."""
    pixels, _ = source.project(plane_points(target, depth).reshape(-1, 3))
    u, v = pixels[0].unbind(-1)
    inside = (u > 0.5) & (u < WIDTH - 0.5) & (v > 0.5) & (v < HEIGHT - 0.5)
    return inside.reshape(HEIGHT, WIDTH)


def test_nearest_view_by_position_and_by_direction():
    sources = cameras_at([[0, 0, 0], [1, 0, 0], [0, 0, 0]], [0, 0, 40])
    targets = cameras_at([[0.1, 0, 0], [0.9, 0, 0], [0, 0, 0]], [0, 0, 30])
    assert baselines.nearest_view(sources, targets).tolist() == [0, 1, 2]


def test_nearest_view_weighs_turns_by_depth():
    """A turn of 10 degrees shifts far things more than a step of 0.5 aside, and near things less."""
    sources = cameras_at([[0.5, 0, 0], [0, 0, 0]], [0, 10])
    target = cameras_at([[0, 0, 0]])
    assert baselines.nearest_view(sources, target, depth=1.0).item() == 1
    assert baselines.nearest_view(sources, target, depth=10.0).item() == 0


def test_copy_returns_the_nearest_frame_itself():
    sources = cameras_at([[0, 0, 0], [1, 0, 0]])
    frames = plane_frames(sources, 2.0)
    copied = baselines.copy_nearest(frames, sources, cameras_at([[0.8, 0, 0], [0.1, 0, 0]]))
    assert torch.equal(copied, frames[[1, 0]])


@pytest.mark.parametrize("move", [[0.15, 0, 0], [0, -0.1, 0.2], [0.1, 0.1, -0.3]])
def test_median_depth_is_exact_on_a_plane_that_faces_the_source(move):
    source, target = cameras_at([[0, 0, 0]], [0]), cameras_at([move], [7])
    frames, truth = plane_frames(source, 2.0), plane_frames(target, 2.0)
    drawn = baselines.median_depth(frames, source, target, torch.tensor([2.0]))
    shared = seen_by(source, target, 2.0)
    assert shared.float().mean() > 0.5
    assert (drawn - truth)[..., shared].abs().max() < 0.02
    assert metrics.psnr(drawn, truth) > metrics.psnr(frames, truth) + 3


def test_median_depth_repeats_the_border_outside():
    source, target = cameras_at([[0, 0, 0]]), cameras_at([[100.0, 0, 0]])
    frames = plane_frames(source, 2.0)
    drawn = baselines.median_depth(frames, source, target, torch.tensor([2.0]))
    assert torch.allclose(drawn, frames[..., -1:].expand_as(drawn), atol=1e-5)


def test_median_depth_of_a_camera_that_looks_away_is_finite():
    source, target = cameras_at([[0, 0, 0]]), cameras_at([[0, 0, 0]], [170])
    drawn = baselines.median_depth(plane_frames(source, 2.0), source, target, torch.tensor([2.0]))
    assert torch.isfinite(drawn).all()


def test_true_depth_is_exact_where_nothing_hides():
    source, target = cameras_at([[0, 0, 0]]), cameras_at([[0.2, 0.05, 0.3]], [-6])
    truth = plane_frames(target, 2.0)
    to_camera = target.world_to_camera[0]
    depth = plane_points(target, 2.0) @ to_camera[2, :3] + to_camera[2, 3]
    drawn = baselines.true_depth(plane_frames(source, 2.0), source, target, depth)
    shared = seen_by(source, target, 2.0)
    assert shared.float().mean() > 0.5
    assert (drawn - truth)[..., shared].abs().max() < 0.02


def test_autoencoder_round_trip_is_decode_of_encode():
    class Halver(torch.nn.Module):
        latent_channels = 3

        def encode(self, frames):
            return frames / 2

        def decode(self, latents):
            return latents + 0.7

    frames = plane_frames(cameras_at([[0, 0, 0]] * 2), 2.0)
    found = baselines.autoencoder_round_trip(Halver(), frames)
    assert torch.allclose(found, (frames / 2 + 0.7).clamp(0, 1))


def test_frame_depths_are_medians_of_known_depth_or_one():
    cameras = cameras_at([[0, 0, 0], [1, 0, 0]])
    frames = plane_frames(cameras, 2.0)
    depth = torch.full((2, HEIGHT, WIDTH), 3.0)
    depth[0, : HEIGHT // 2] = 0
    depth[1] = 0
    clip = Clip(frames, cameras, "plane", 2, depth=depth)
    assert baselines.frame_depths(clip, [0, 1]).tolist() == [3.0, 1.0]
    assert baselines.frame_depths(Clip(frames, cameras, "plane", 2), [0]).tolist() == [1.0]
