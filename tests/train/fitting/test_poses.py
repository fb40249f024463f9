"""Corrections of cameras: exact exponentials, the first view fixed, wrong cameras found again."""

from __future__ import annotations

from dataclasses import replace

import torch

from train.alignment.step import rigid_exponential
from train.fitting.fit import FitConfig, fit_scene
from train.fitting.poses import PoseConfig, PoseCorrections, rigid_motion


def test_the_exponential_is_the_one_that_alignment_uses():
    twists = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rigid_motion(twists), rigid_exponential(twists), atol=1e-12)
    at_zero = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rigid_motion, (at_zero,))


def test_the_first_view_stays_and_others_go_where_their_twist_says(cameras):
    poses = PoseCorrections(cameras, PoseConfig())
    with torch.no_grad():
        poses.twists += 0.1
    moved = poses.cameras().world_to_camera
    assert torch.equal(moved[0], cameras.world_to_camera[0])
    expected = rigid_motion(torch.full((5, 6), 0.1)) @ cameras.world_to_camera[1:]
    assert torch.allclose(moved[1:], expected)
    small = poses.corrected(cameras.resize(12, 16), [2, 0])
    assert torch.allclose(small.world_to_camera, moved[[2, 0]]) and small.height == 12


def test_wrong_cameras_are_found_again(scene, cameras, frames):
    noise = 0.02 * torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    noise[0] = 0
    wrong = replace(cameras, world_to_camera=rigid_motion(noise) @ cameras.world_to_camera)
    config = FitConfig(
        iterations=120, views_per_step=6, poses=PoseConfig(rate=3e-3), rates={"means": 1e-4}
    )
    generator = torch.Generator().manual_seed(0)
    found = fit_scene(scene, frames, wrong, config, generator).cameras

    def error(some) -> float:
        return float((some.positions - cameras.positions).norm(dim=-1).mean())

    assert error(found) < 0.3 * error(wrong)
