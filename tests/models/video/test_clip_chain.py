"""Cutting long paths and putting the clips' scenes together, against a wall at a known place."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians
from models.rendering.render import render
from models.video.clip_chain import clip_cameras, cut_into_clips, median_depth, place_clip

CAMERA = Cameras(torch.eye(4)[None], intrinsics_from_fov(45.0, 32, 48)[None], 32, 48)


def wall(depth: float, count: int = 60, roughness: float = 0.0) -> Gaussians:
    """A dense, opaque grid of Gaussians in or about the plane z = depth, wider than the view."""
    side = torch.linspace(-depth, depth, count)
    y, x = torch.meshgrid(side, side, indexing="ij")
    means = torch.stack([x, y, torch.full_like(x, depth)], dim=-1).flatten(0, 1)
    number = len(means)
    generator = torch.Generator().manual_seed(0)
    means[:, 2] += roughness * torch.rand(number, generator=generator)
    return Gaussians(
        means=means,
        quats=torch.nn.functional.normalize(torch.randn(number, 4, generator=generator), dim=-1),
        scales=torch.full((number, 3), 2 * depth / count),
        opacities=torch.full((number,), 0.95),
        colors=torch.rand(number, 3, generator=generator),
    )


@pytest.mark.parametrize(
    ("num_views", "clip_frames", "expected"),
    [
        (17, 17, [(0, 17)]),
        (33, 17, [(0, 17), (16, 33)]),
        (25, 17, [(0, 17), (16, 25)]),
        (9, 17, [(0, 9)]),
        (49, 17, [(0, 17), (16, 33), (32, 49)]),
        (97, 49, [(0, 49), (48, 97)]),
    ],
)
def test_clips_share_one_view_and_cover_the_path(num_views, clip_frames, expected):
    clips = cut_into_clips(num_views, clip_frames)
    assert [(views.start, views.stop) for views in clips] == expected


@pytest.mark.parametrize(
    ("num_views", "message"), [(1, "9 or 17"), (16, "9 or 17"), (18, "17 or 25"), (8, "9 or 17")]
)
def test_other_lengths_are_refused_with_the_nearest(num_views, message):
    with pytest.raises(UserError, match=f"has {num_views} views.*{message}"):
        cut_into_clips(num_views, 17)


def test_a_clip_has_its_own_axes_and_unit():
    path = make_path("orbit", CAMERA, 17, 20)
    clip = clip_cameras(path, range(8, 17), 0.5)
    assert torch.equal(clip.world_to_camera[0], torch.eye(4))
    for view in range(9):
        between = (
            path.world_to_camera[8 + view].double() @ path.world_to_camera[8].double().inverse()
        )
        between[:3, 3] /= 0.5
        assert torch.allclose(clip.world_to_camera[view].double(), between, atol=1e-6)
    assert torch.equal(clip.intrinsics, path.intrinsics[8:])


def test_a_placed_clip_looks_the_same_along_the_path():
    """Its pictures from the path's cameras are those that the clip's own cameras take of the clip."""
    path = make_path("crane", CAMERA, 17, 0.4)
    # Were all at one depth, rounding would decide which is in front.
    views, unit, scene = range(8, 17), 0.7, wall(1.0, roughness=0.5)
    own = render(scene, clip_cameras(path, views, unit))
    placed = render(place_clip(scene, path.select(8), unit), path.select(list(views)))
    assert (own.frames - placed.frames).abs().max() < 2e-3
    assert torch.allclose(own.depth * unit, placed.depth, atol=2e-3)


def test_the_unit_is_the_depth_that_the_next_clip_starts_at():
    ahead = make_path("dolly", CAMERA, 9, 0.4).select(8)
    assert median_depth(wall(1.0), CAMERA) == pytest.approx(1.0, abs=0.01)
    assert median_depth(wall(1.0), ahead) == pytest.approx(0.6, abs=0.01)


def test_an_empty_view_has_no_depth():
    behind = make_path("pan", CAMERA, 9, 180).select(8)
    assert median_depth(wall(1.0), behind) is None
