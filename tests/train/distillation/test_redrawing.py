"""Scenes fitted to pictures that a prior draws anew: an oracle's lead to the truth, and stopped runs go on the same."""

from __future__ import annotations

import pytest
import torch

from models.priors.oracle import OraclePrior
from models.rendering.render import render
from models.stopwatch import Stopwatch
from train.distillation.cameras import CameraSampler, CameraSamplerConfig
from train.distillation.evidence import EvidenceConfig, gather_evidence
from train.distillation.redrawing import RedrawConfig, Redrawn, redraw
from train.distillation.refine import RefineConfig, Refinement

GREY = torch.full((3,), 0.5)
SIGNAL = torch.linspace(0.999, 0.001, 1000, dtype=torch.float64)


def refinement_of(scene, path, look, **changes) -> Refinement:
    config = RefineConfig(rates={"means": 3e-3, "colors": 2e-2, "scales": 2e-2}, **changes)
    cameras = path.select(0)
    evidence = gather_evidence(look(cameras), cameras, EvidenceConfig(), seed=0)
    sampler = CameraSampler(path, 1.0, CameraSamplerConfig())
    return Refinement(scene, sampler, evidence, OraclePrior(look, SIGNAL), config, seed=3)


def test_an_oracles_pictures_are_the_truth_and_without_noise_the_scenes_own(damaged, path, look):
    sampler = CameraSampler(path, 1.0, CameraSamplerConfig())
    prior = OraclePrior(look, SIGNAL)

    def pictures(**noise: float) -> Redrawn:
        config = RedrawConfig(looks=3, noise=noise, denoise_steps=4)
        generator = torch.Generator().manual_seed(0)
        return redraw(
            damaged, prior, sampler, config, 0.0, GREY, generator, Stopwatch(torch.device("cpu"))
        )

    redrawn = pictures(first=0.5, last=0.0)
    assert len(redrawn.frames) == redrawn.cameras.num_views > 3
    assert torch.allclose(redrawn.frames, look(redrawn.cameras), atol=2e-3)
    still = pictures(first=0.0, last=0.0)
    own = render(damaged, still.cameras, background=GREY).frames.clamp(0, 1)
    assert torch.allclose(still.frames, own, atol=1e-6)


def test_an_oracle_mends_a_damaged_scene_with_few_looks(damaged, path, look):
    refinement = refinement_of(damaged, path, look, iterations=60, redraw={"every": 20})
    unseen = path.select([2, 5, 8])

    def psnr(scene) -> float:
        drawn = render(scene, unseen, background=GREY).frames
        return float(-10 * (drawn - look(unseen)).square().mean().log10())

    before, after = psnr(damaged), psnr(refinement.run())
    assert after > before + 3, (before, after)
    assert set(refinement.watch.seconds) == {"rasteriser", "prior", "optimiser"}


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_continued_run_is_the_same_run(damaged, path, look, stop):
    """Stopped within a round, and between two."""
    changes = {"iterations": 7, "redraw": {"every": 3, "looks": 1, "denoise_steps": 2}}
    whole = refinement_of(damaged, path, look, **changes)
    whole.run()
    first = refinement_of(damaged, path, look, **changes)
    for _ in range(stop):
        first.step()
    second = refinement_of(damaged, path, look, **changes)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    second.run()
    for name, value in whole.gaussians().tensors().items():
        assert torch.equal(value, second.gaussians().tensors()[name]), name
