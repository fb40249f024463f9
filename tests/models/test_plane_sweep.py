from __future__ import annotations

import torch

from data.cameras import Cameras, intrinsics_from_fov
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from models.plane_sweep import PlaneSweep, PlaneSweepConfig, _sweep, _sweep_on_cpu, evenly_spaced
from train.losses import half_resolution_distance


def random_views(batch: int, num_views: int, height: int, width: int) -> Cameras:
    generator = torch.Generator().manual_seed(0)
    transforms = torch.eye(4).repeat(batch, num_views, 1, 1)
    transforms[..., :3, 3] = 0.2 * torch.randn(batch, num_views, 3, generator=generator)
    intrinsics = intrinsics_from_fov(50.0, height, width).expand(batch, num_views, 3, 3)
    return Cameras(transforms, intrinsics, height, width)


def test_compiled_kernel_equals_torch() -> None:
    colors = torch.rand(2, 5, 8, 12, 3, generator=torch.Generator().manual_seed(1))
    cameras, inverse = random_views(2, 5, 8, 12), torch.linspace(0.05, 4, 9)
    found = _sweep_on_cpu(colors, cameras, inverse, [0, 2, 4])
    expected = _sweep(colors, cameras, inverse, [0, 2, 4])
    assert (found == 0.5).any()
    different = (found - expected).abs() > 1e-4
    # A point on a picture's very edge may be seen by one and not by the other.
    assert different.float().mean() < 2e-3


def test_costs_are_least_near_the_true_distance() -> None:
    """On rendered scenes with known depth the cheapest distance is the truth, where there is texture."""
    clip = make_clip(3, SceneConfig(num_near=0, num_far=0))
    cameras = Cameras(clip.cameras.world_to_camera[None], clip.cameras.intrinsics[None], 64, 96)
    colors = torch.nn.functional.avg_pool2d(clip.frames, 2).movedim(1, -1)[None]
    sweep = PlaneSweep(PlaneSweepConfig(), num_channels=12)
    best = sweep.distances()[sweep.costs(colors, cameras).argmin(dim=2)]
    truth = half_resolution_distance(clip.depth[None], cameras)
    error = (best.log() - truth.log()).abs()
    assert error.median() < 0.15
    shifted = (best.log() - (1.5 * truth).log()).abs()
    assert shifted.median() > 2 * error.median()


def test_starts_as_no_correction_and_passes_gradients_to_the_prediction() -> None:
    sweep = PlaneSweep(PlaneSweepConfig(num_distances=6), num_channels=12)
    raw = torch.randn(1, 5, 8, 12, 12, requires_grad=True)
    colors = torch.rand(1, 5, 8, 12, 3, requires_grad=True)
    out = sweep(raw, colors, random_views(1, 5, 8, 12))
    assert torch.equal(out, raw)
    out.sum().backward()
    assert raw.grad is not None
    assert colors.grad is None


def test_sources_are_spread_over_the_clip() -> None:
    assert evenly_spaced(17, 5) == [0, 4, 8, 12, 16]
    assert evenly_spaced(3, 5) == [0, 1, 2]
    assert evenly_spaced(9, 1) == [4]
