"""The optimiser of a scene: edits keep moments, a continued run is the same run."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from models.rendering.render import render
from train.fitting.density import DensityConfig
from train.fitting.losses import photometric_loss
from train.fitting.optimiser import OptimiserConfig, SceneOptimiser


def make(scene, **options) -> SceneOptimiser:
    return SceneOptimiser(scene, OptimiserConfig(**options), torch.Generator().manual_seed(0))


def total(optimiser: SceneOptimiser) -> torch.Tensor:
    return sum(value.square().sum() for value in optimiser.raw.tensors.values())


def test_pruning_drops_what_is_faint_and_broken_and_keeps_adams_moments(scene):
    optimiser = make(scene, prune_every=2)
    optimiser.step(total(optimiser), 0.0)
    raw = optimiser.raw.tensors
    with torch.no_grad():
        raw["opacities"][3] = -9.0
        raw["means"][5, 1] = float("nan")
    rows = optimiser.raw.opaque_rows(0.01)
    assert rows.tolist() == [i for i in range(80) if i not in (3, 5)]
    means = raw["means"].detach().clone()
    moments = optimiser.adams["means"].state[raw["means"]]["exp_avg"].clone()
    optimiser.keep_rows(rows)
    assert optimiser.num_gaussians == 78
    assert torch.equal(raw["means"], means[rows])
    assert torch.equal(optimiser.adams["means"].state[raw["means"]]["exp_avg"], moments[rows])
    assert optimiser.adams["means"].state[raw["means"]]["step"] == 1
    for name, adam in optimiser.adams.items():
        assert adam.param_groups[0]["params"] == [raw[name]]


def test_new_gaussians_start_without_moments_and_move(scene):
    optimiser = make(scene)
    optimiser.step(total(optimiser), 0.0)
    raw = optimiser.raw.tensors
    optimiser.append_rows({name: value[:4] for name, value in raw.items()})
    assert optimiser.num_gaussians == 84
    moments = optimiser.adams["scales"].state[raw["scales"]]["exp_avg"]
    assert not moments[80:].any() and moments[:80].any()
    before = raw["scales"].detach().clone()
    optimiser.step(total(optimiser), 0.0)
    assert (raw["scales"][80:] != before[80:]).all()


def test_rates_are_of_their_group_and_fall(scene):
    optimiser = make(scene, final_rate=0.1)
    for progress, share in ((0.0, 1.0), (0.5, 0.1**0.5), (1.0, 0.1)):
        optimiser.step(total(optimiser), progress)
        for name, adam in optimiser.adams.items():
            start = getattr(optimiser.config.rates, name)
            assert adam.param_groups[0]["lr"] == pytest.approx(start * share)


@pytest.mark.parametrize("stop_after", [3, 5])
def test_a_continued_run_is_the_run_that_was_not_stopped(scene, cameras, frames, stop_after):
    density = DensityConfig(start=1, every=4, grow_gradient=1e-6, split_scale=0.05)

    def run(optimiser: SceneOptimiser, steps: range) -> None:
        for step in steps:
            trace = optimiser.trace()
            drawn = render(optimiser.gaussians(), cameras, trace=trace)
            loss = photometric_loss(drawn.frames, frames.flip(0), 0.2)
            optimiser.step(loss, step / 10, trace, (cameras.height, cameras.width))

    options = {"density": density, "prune_every": 3}
    whole = make(scene, **options)
    run(whole, range(7))
    first = make(scene, **options)
    run(first, range(stop_after))
    state = {name: value.clone() for name, value in first.state().items()}
    second = make(scene.select(torch.arange(7)), **options)
    second.load_state(state)
    second._density.generator.set_state(first._density.generator.get_state())
    run(second, range(stop_after, 7))
    assert whole.num_gaussians > 80
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_an_empty_scene_is_the_users_error(scene):
    with pytest.raises(UserError, match="no Gaussians"):
        make(scene.prune(2.0))
