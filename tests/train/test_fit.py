"""Per-scene fitting: regains a known scene, repeats exactly, and starts where it says."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from models.gaussians import Gaussians
from models.rendering.render import render
from train import fit

HEIGHT, WIDTH = 24, 32
GREY = torch.full((3,), 0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    to_world = torch.eye(4).repeat(6, 1, 1)
    to_world[:, 0, 3] = torch.linspace(-0.3, 0.3, 6)
    to_world[:, 1, 3] = torch.tensor([0.0, 0.1, -0.1, 0.1, -0.1, 0.0])
    intrinsics = intrinsics_from_fov(50.0, HEIGHT, WIDTH).expand(6, 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    g = generator()
    return Gaussians(
        means=torch.rand(80, 3, generator=g) * torch.tensor([1.2, 0.9, 1.0])
        + torch.tensor([-0.6, -0.45, 0.8]),
        quats=torch.nn.functional.normalize(torch.randn(80, 4, generator=g), dim=-1),
        scales=0.04 + 0.08 * torch.rand(80, 3, generator=g),
        opacities=0.5 + 0.45 * torch.rand(80, generator=g),
        colors=torch.rand(80, 3, generator=g),
    )


@pytest.fixture(scope="module")
def frames(scene, cameras) -> torch.Tensor:
    return render(scene, cameras, background=GREY).frames


def perturbed(scene: Gaussians) -> Gaussians:
    g = generator(1)
    return Gaussians(
        means=scene.means + 0.05 * torch.randn(80, 3, generator=g),
        quats=scene.quats + 0.3 * torch.randn(80, 4, generator=g),
        scales=scene.scales * (0.5 * torch.randn(80, 3, generator=g)).exp(),
        opacities=torch.full((80,), 0.5),
        colors=(scene.colors + 0.3 * torch.randn(80, 3, generator=g)).clamp(0, 1),
    )


def psnr(gaussians: Gaussians, cameras: Cameras, frames: torch.Tensor) -> float:
    drawn = render(gaussians, cameras, background=GREY).frames
    return float(-10 * (drawn - frames).square().mean().log10())


def test_it_regains_a_known_scene_on_views_it_never_saw(scene, cameras, frames):
    start = perturbed(scene)
    given, kept_back = [0, 1, 3, 5], [2, 4]
    config = fit.FitConfig(iterations=150, views_per_step=2)
    found = fit.fit_gaussians(start, frames[given], cameras.select(given), config, generator())
    before = psnr(start, cameras.select(kept_back), frames[kept_back])
    after = psnr(found, cameras.select(kept_back), frames[kept_back])
    assert before < 22 and after > 30


def test_equal_seeds_give_equal_scenes(scene, cameras, frames):
    config = fit.FitConfig(iterations=5, views_per_step=4)
    first, again, other = (
        fit.fit_gaussians(perturbed(scene), frames, cameras, config, generator(seed))
        for seed in (3, 3, 4)
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


def test_pruning_drops_what_is_faint_and_broken_and_keeps_adams_moments(scene):
    raw = fit.RawGaussians.from_gaussians(scene)
    optimiser = raw.optimiser(fit.FitRates())
    sum(value.square().sum() for value in raw.tensors.values()).backward()
    optimiser.step()
    with torch.no_grad():
        raw.tensors["opacities"][3] = -9.0
        raw.tensors["means"][5, 1] = float("nan")
    means = raw.tensors["means"].detach().clone()
    moments = optimiser.state[raw.tensors["means"]]["exp_avg"].clone()
    rows = raw.opaque_rows(0.01)
    assert rows.tolist() == [i for i in range(80) if i not in (3, 5)]
    raw.keep_rows(optimiser, rows)
    assert raw.num_gaussians == 78
    assert torch.equal(raw.tensors["means"], means[rows])
    assert torch.equal(optimiser.state[raw.tensors["means"]]["exp_avg"], moments[rows])
    assert optimiser.state[raw.tensors["means"]]["step"] == 1
    assert {id(g["params"][0]) for g in optimiser.param_groups} == {
        id(value) for value in raw.tensors.values()
    }


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


def test_random_start_lies_on_the_rays_of_the_pixels_it_takes_its_colours_from(cameras, frames):
    config = fit.StartConfig(num_gaussians=500, near=0.5, far=4.0)
    start = fit.random_gaussians(frames, cameras, config, generator())
    pixels, depth = cameras.project(start.means)
    matches = torch.zeros(500, dtype=torch.bool)
    for view in range(6):
        u, v = pixels[view].unbind(-1)
        inside = (u > 0) & (u < WIDTH) & (v > 0) & (v < HEIGHT) & (depth[view] > 0)
        row, column = v.clamp(0, HEIGHT - 1).long(), u.clamp(0, WIDTH - 1).long()
        colour = frames[view][:, row, column].T
        centred = ((u % 1 - 0.5).abs() < 1e-3) & ((v % 1 - 0.5).abs() < 1e-3)
        within = (depth[view] > 0.499) & (depth[view] < 4.001)
        matches |= inside & centred & within & ((colour - start.colors).abs().amax(1) < 1e-5)
    assert matches.all()


def test_start_from_depth_puts_points_on_the_surface(cameras, frames):
    depth = torch.full((6, HEIGHT, WIDTH), 1.5)
    depth[:, : HEIGHT // 2] = 0
    config = fit.StartConfig(num_gaussians=200)
    start = fit.gaussians_from_depth(frames, cameras, depth, config, generator())
    assert start.num_gaussians == 200
    assert torch.allclose(start.means[:, 2], torch.tensor(1.5), atol=1e-5)
    with pytest.raises(UserError, match="no pixel"):
        fit.gaussians_from_depth(frames, cameras, depth * 0, config, generator())


def test_photometric_loss_is_zero_for_the_truth_and_mixes_as_stated(frames):
    assert fit.photometric_loss(frames, frames, 0.2) < 1e-6
    shifted = frames + 0.1
    assert fit.photometric_loss(shifted, frames, 0.0).item() == pytest.approx(0.1, abs=1e-5)
    pure = fit.photometric_loss(shifted, frames, 1.0).item()
    mixed = fit.photometric_loss(shifted, frames, 0.2).item()
    assert mixed == pytest.approx(0.8 * 0.1 + 0.2 * pure, abs=1e-5)


def test_bad_input_is_the_users_error(scene, cameras, frames):
    config = fit.FitConfig(iterations=1)
    with pytest.raises(UserError, match="5 frames but 6 cameras"):
        fit.fit_gaussians(scene, frames[:5], cameras, config, generator())
    with pytest.raises(UserError, match="no Gaussians"):
        fit.fit_gaussians(scene.prune(2.0), frames, cameras, config, generator())
