"""Floaters: what stands on the true surface is none, what hangs before it is one, by its mass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data.warping import unproject
from eval.scores.floaters import floater_share
from models.gaussians import Gaussians


@pytest.fixture(scope="module")
def on_surface(clip) -> Gaussians:
    """Small Gaussians on the true surfaces of the first frame."""
    points = unproject(clip.cameras.select(0), clip.depth[:1]).flatten(0, 2)
    count = len(points)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
    return Gaussians(
        points, quats, torch.full((count, 3), 0.01), torch.full((count,), 0.5), torch.rand(count, 3)
    )


def test_true_surfaces_have_hardly_any(clip, on_surface):
    assert floater_share(on_surface, clip.cameras, clip.depth) < 0.02


def test_mass_in_free_space_counts_by_opacity_and_area(clip, on_surface):
    half = replace(on_surface, means=on_surface.means.clone())
    half.means[::2] *= 0.5  # towards the first camera, which is at the origin
    before = floater_share(half, clip.cameras.select(0), clip.depth[:1])
    assert before == pytest.approx(0.5, abs=0.03)
    opacities = half.opacities.clone()
    opacities[::2] /= 10
    faint = floater_share(
        replace(half, opacities=opacities), clip.cameras.select(0), clip.depth[:1]
    )
    assert faint == pytest.approx(before / 5.5, rel=1e-3)  # of 0.5 / 10 + 0.5
    scales = half.scales.clone()
    scales[::2] *= 2
    large = floater_share(replace(half, scales=scales), clip.cameras.select(0), clip.depth[:1])
    assert large == pytest.approx(before * 4 / 2.5, rel=1e-3)  # of 0.5 * 4 + 0.5


def test_what_is_hidden_is_not_called_wrong(clip, on_surface):
    behind = replace(on_surface, means=on_surface.means * 2)
    assert floater_share(behind, clip.cameras.select(0), clip.depth[:1]) == 0


def test_without_known_depth_there_is_no_number(clip, on_surface):
    assert floater_share(on_surface, clip.cameras, torch.zeros_like(clip.depth)) is None
