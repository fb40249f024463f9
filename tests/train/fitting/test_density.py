"""Density control against gsplat's DefaultStrategy itself, which runs on the CPU where nothing is rendered."""

from __future__ import annotations

import pytest
import torch

from models.rendering.screen import ScreenTrace
from train.fitting.density import DensityConfig
from train.fitting.gsplat_density import GsplatDensityControl
from train.fitting.optimiser import OptimiserConfig, SceneOptimiser
from train.fitting.torch_density import TorchDensityControl

SIZE = (24, 32)


def optimiser_of(scene) -> SceneOptimiser:
    """With moments, so that one sees what becomes of them."""
    optimiser = SceneOptimiser(scene, OptimiserConfig(), torch.Generator())
    optimiser.step(sum(v.square().sum() for v in optimiser.raw.tensors.values()), 0.0)
    return optimiser


def random_trace(num_gaussians: int, seed: int) -> ScreenTrace:
    g = torch.Generator().manual_seed(seed)
    trace = ScreenTrace()
    trace.radii = (torch.rand(3, num_gaussians, generator=g) - 0.3).clamp_min(0) * 9
    trace.gradients = 1e-5 * torch.randn(3, num_gaussians, 2, generator=g)
    return trace


def assert_same(ours: SceneOptimiser, theirs: SceneOptimiser) -> None:
    for name, value in theirs.raw.tensors.items():
        assert torch.allclose(ours.raw.tensors[name], value, atol=1e-6), name
        expected = theirs.adams[name].state[value]
        found = ours.adams[name].state[ours.raw.tensors[name]]
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(found[key], expected[key]), (name, key)


@pytest.mark.parametrize("split_scale", [0.0001, 0.08, 10.0])
def test_the_rules_are_gsplats(scene, split_scale):
    pytest.importorskip("gsplat")
    config = DensityConfig(
        start=1, stop=9, every=2, split_scale=split_scale, prune_scale=0.11, prune_large_after=3
    )
    ours, theirs = optimiser_of(scene), optimiser_of(scene)
    mine = TorchDensityControl(config, ours, 0.7, torch.Generator())
    gsplats = GsplatDensityControl(config, theirs, 0.7, torch.Generator().manual_seed(5))
    seeds = torch.Generator().manual_seed(5)
    sizes = []
    for step in range(12):
        trace = random_trace(ours.num_gaussians, step)
        mine.generator.manual_seed(int(torch.randint(2**62, (), generator=seeds)))
        if mine.watches(step):
            mine.after_step(step, trace, SIZE)
        assert mine.watches(step) == gsplats.watches(step) == (step < 9)
        gsplats.after_step(step, trace, SIZE)
        assert ours.num_gaussians == theirs.num_gaussians
        assert_same(ours, theirs)
        sizes.append(ours.num_gaussians)
    assert len(set(sizes)) >= 3 and mine.grown > 10 and mine.pruned > 5


def test_gsplats_splits_are_those_of_the_generator_and_leave_torchs_alone(scene):
    pytest.importorskip("gsplat")
    config = DensityConfig(start=0, every=1, split_scale=1e-4, grow_gradient=1e-9)
    found = []
    for number in (1, 2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        optimiser = optimiser_of(scene)
        generator = torch.Generator().manual_seed(7)
        control = GsplatDensityControl(config, optimiser, 0.0, generator)
        control.after_step(1, random_trace(80, 0), SIZE)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(optimiser.raw.tensors["means"].detach())
    assert len(found[0]) > 80 and torch.equal(*found)


def test_no_more_than_there_is_room_for_and_the_most_wanted_first(scene):
    optimiser = optimiser_of(scene)
    config = DensityConfig(start=0, every=1, split_scale=10, max_gaussians=85)
    control = TorchDensityControl(config, optimiser, 0.0, torch.Generator())
    trace = ScreenTrace()
    trace.radii = torch.ones(1, 80)
    trace.gradients = torch.linspace(1, 2, 80)[None, :, None].expand(1, 80, 2)
    control.after_step(1, trace, SIZE)
    means = optimiser.raw.tensors["means"]
    assert optimiser.num_gaussians == 85
    assert torch.equal(means[80:], means[[75, 76, 77, 78, 79]])


def test_views_that_do_not_draw_a_gaussian_do_not_count(scene):
    optimiser = optimiser_of(scene)
    control = TorchDensityControl(DensityConfig(), optimiser, 0.01, torch.Generator())
    trace = random_trace(80, 0)
    control.after_step(0, trace, SIZE)
    drawn = trace.radii > 0
    per_view = (trace.gradients * torch.tensor([16.0, 12.0]) * 3).norm(dim=-1)
    assert torch.equal(control.counts, drawn.sum(0).float())
    assert torch.allclose(control.gradient_sums, (per_view * drawn).sum(0))
