"""Per-scene fitting: regains a known scene, repeats exactly, refines cameras, and says what is wrong."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.render import render
from train.fitting import fit

HEIGHT, WIDTH = 24, 32
GREY = torch.full((3,), 0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def psnr(gaussians: Gaussians, cameras: Cameras, frames: torch.Tensor) -> float:
    drawn = render(gaussians, cameras, background=GREY).frames
    return float(-10 * (drawn - frames).square().mean().log10())


def test_it_regains_a_known_scene_on_views_it_never_saw(perturbed, cameras, frames):
    start = perturbed
    given, kept_back = [0, 1, 3, 5], [2, 4]
    config = fit.FitConfig(iterations=150, views_per_step=2)
    found = fit.fit_gaussians(start, frames[given], cameras.select(given), config, generator())
    before = psnr(start, cameras.select(kept_back), frames[kept_back])
    after = psnr(found, cameras.select(kept_back), frames[kept_back])
    assert before < 22 and after > 30


def test_equal_seeds_give_equal_scenes(perturbed, cameras, frames):
    config = fit.FitConfig(iterations=5, views_per_step=4)
    first, again, other = (
        fit.fit_gaussians(perturbed, frames, cameras, config, generator(seed)) for seed in (3, 3, 4)
    )
    for name, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[name])
    assert not torch.equal(first.means, other.means)


def test_views_are_drawn_round_after_round(scene, cameras, frames, monkeypatch):
    drawn: list[int] = []
    positions = cameras.positions

    def spy(gaussians, some, **options):
        drawn.extend(int((positions - p).norm(dim=-1).argmin()) for p in some.positions)
        return render(gaussians, some, **options)

    monkeypatch.setattr(fit, "render", spy)
    config = fit.FitConfig(iterations=6, views_per_step=4)
    fit.fit_gaussians(scene, frames, cameras, config, generator())
    assert len(drawn) == 24
    for start in range(0, 24, 6):
        assert sorted(drawn[start : start + 6]) == list(range(6))


def test_a_scene_that_the_background_explains_keeps_its_faint_gaussians(scene, cameras):
    grey = torch.full((6, 3, HEIGHT, WIDTH), 0.5)
    config = fit.FitConfig(iterations=4, prune_every=2, min_opacity=0.999)
    found = fit.fit_gaussians(scene, grey, cameras, config, generator())
    assert found.num_gaussians == 80


def test_progress_is_told_and_a_time_limit_stops(scene, cameras, frames):
    steps: list[fit.FitStep] = []
    config = fit.FitConfig(iterations=10_000, seconds=0.3, views_per_step=1)
    fit.fit_gaussians(scene, frames, cameras, config, generator(), steps.append)
    assert 1 <= len(steps) < 10_000
    assert [s.step for s in steps] == list(range(len(steps)))
    assert steps[-1].num_gaussians == 80


def test_bad_input_is_the_users_error(scene, cameras, frames):
    config = fit.FitConfig(iterations=1)
    with pytest.raises(UserError, match="5 frames but 6 cameras"):
        fit.fit_gaussians(scene, frames[:5], cameras, config, generator())
    with pytest.raises(UserError, match="no Gaussians"):
        fit.fit_gaussians(scene.prune(2.0), frames, cameras, config, generator())
