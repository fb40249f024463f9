"""What a step asks a prior: at which noise level, from which cameras."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from train.distillation.cameras import CameraSampler, CameraSamplerConfig
from train.distillation.noise import NoiseConfig


def test_noise_falls_linearly_within_its_limits():
    noise = NoiseConfig()
    levels = [noise.level(p, 1000) for p in (0.0, 0.25, 0.5, 1.0)]
    assert levels == [980, 740, 500, 20]
    assert NoiseConfig(first=1.0, last=0.0).level(0.0, 1000) == 999
    with pytest.raises(ValidationError, match="noise has to fall"):
        NoiseConfig(first=0.1, last=0.5)


def test_paths_start_at_the_input_view_and_bend_aside(path):
    config = CameraSamplerConfig(beside=0.2, reach=(0.5, 1.0))
    sampler = CameraSampler(path, 1.5, config)
    ends = []
    for seed in range(20):
        drawn = sampler.draw_path(9, torch.Generator().manual_seed(seed))
        assert torch.allclose(drawn.world_to_camera[0], path.world_to_camera[0], atol=1e-6)
        end = drawn.positions[-1]
        assert 0.15 - 0.3 - 1e-5 <= end[0] <= 0.3 + 0.3 + 1e-5
        assert end[1:].norm() <= 0.2 * 1.5 + 1e-5
        ends.append(end)
        drawn.validate("drawn")
    assert torch.stack(ends).std(dim=0)[:2].min() > 0.02


def test_single_views_keep_what_they_look_at_in_the_middle(path):
    sampler = CameraSampler(path.select([0, 0]), 1.2, CameraSamplerConfig(beside=0.3))
    drawn = sampler.draw_views(30, torch.Generator().manual_seed(0))
    pixels, depth = drawn.project(torch.tensor([[0.0, 0.0, 1.2]]))
    assert torch.allclose(pixels[:, 0], torch.tensor([24.0, 16.0]), atol=1e-3)
    offsets = drawn.positions.norm(dim=-1)
    assert offsets.max() <= 0.36 + 1e-5 and offsets.max() > 0.25
    assert (depth > 1.1).all()


def test_a_reach_out_of_range_is_refused():
    with pytest.raises(ValidationError, match="reach"):
        CameraSamplerConfig(reach=(0.8, 0.5))
