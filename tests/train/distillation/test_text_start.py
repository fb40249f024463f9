"""Scenes from words: the ball they start from, and the cameras around it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from models.priors.oracle import OraclePrior
from models.rendering.render import render
from train.distillation.text_start import (
    AroundSampler,
    TextStartConfig,
    ball_of_gaussians,
    cameras_around,
)


def test_the_ball_is_even_and_of_its_radius():
    config = TextStartConfig(num_gaussians=4000, radius=0.4)
    ball = ball_of_gaussians(config, torch.Generator().manual_seed(0))
    away = ball.means.norm(dim=1)
    assert away.max() <= 0.4
    # Even in space: half of it lies beyond the radius that halves the volume.
    assert float((away > 0.4 * 0.5 ** (1 / 3)).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_cameras_stand_upright_at_distance_one_and_look_at_the_origin():
    azimuth, elevation = torch.tensor([0.0, 90.0, 200.0]), torch.tensor([0.0, 0.0, 30.0])
    cameras = cameras_around(azimuth, elevation, TextStartConfig(), 40, 60).validate("around")
    assert torch.allclose(cameras.positions.norm(dim=1), torch.ones(3))
    pixels, depth = cameras.project(torch.zeros(1, 3))
    assert torch.allclose(pixels[:, 0], torch.tensor([30.0, 20.0]), atol=1e-4)
    assert torch.allclose(depth, torch.ones(3, 1))
    assert torch.allclose(cameras.positions[0], torch.tensor([0.0, 0.0, -1.0]))
    assert torch.allclose(cameras.positions[1], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)
    assert float(cameras.positions[2, 1]) == pytest.approx(-0.5)  # -y is up
    above, _ = cameras.project(torch.tensor([[0.0, -0.1, 0.0]]))
    assert (above[:, 0, 1] < 20).all()


def test_draws_go_all_around_within_the_elevations():
    sampler = AroundSampler(TextStartConfig(views_at_once=200, elevation_deg=(0, 60)), 16, 24)
    prior = OraclePrior(lambda cameras: torch.zeros(1, 3, 16, 24), torch.ones(1000))
    cameras = sampler.draw(prior, torch.Generator().manual_seed(0))
    heights = -cameras.positions[:, 1]
    assert heights.min() >= 0 and heights.max() <= 0.867
    assert cameras.positions[:, [0, 2]].mean(dim=0).abs().max() < 0.1
    ball = ball_of_gaussians(TextStartConfig(opacity=0.9), torch.Generator().manual_seed(0))
    alpha = render(ball, cameras.select([0, 1, 2])).alpha
    assert alpha[:, 8, 12].min() > 0.9 and alpha[:, 0, 0].max() < 0.1
    assert sampler.turntable(6).num_views == 6


def test_elevations_out_of_order_are_refused():
    with pytest.raises(ValidationError, match="elevation"):
        TextStartConfig(elevation_deg=(40, 10))
