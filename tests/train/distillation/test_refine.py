"""Refinement of a small scene: an oracle mends it, a continued run is the same run, distortion is let go of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.errors import UserError
from models.priors.oracle import OraclePrior
from models.rendering.render import render
from train.distillation.cameras import CameraSampler, CameraSamplerConfig
from train.distillation.evidence import (
    EvidenceConfig,
    check_input,
    gather_evidence,
    held_out_psnr,
    likeness,
)
from train.distillation.refine import RefineConfig, Refinement
from train.fitting.density import DensityConfig
from train.fitting.poses import PoseConfig, rigid_motion
from train.fitting.resolution import ResolutionConfig

GREY = torch.full((3,), 0.5)
SIGNAL = torch.linspace(0.999, 0.001, 1000, dtype=torch.float64)


def evidence_of(look, path, views):
    cameras = path.select(views)
    return gather_evidence(look(cameras), cameras, EvidenceConfig(), seed=0)


def sampler_of(path) -> CameraSampler:
    return CameraSampler(path, 1.0, CameraSamplerConfig())


def psnr(scene, cameras, frames) -> float:
    drawn = render(scene, cameras, background=GREY).frames
    return float(-10 * (drawn - frames).square().mean().log10())


def test_an_oracle_mends_a_damaged_scene_on_views_never_looked_at(damaged, path, look):
    prior = OraclePrior(look, SIGNAL)
    config = RefineConfig(
        iterations=60, distill_weight=0.01, rates={"means": 3e-3, "colors": 2e-2, "scales": 2e-2}
    )
    refinement = Refinement(
        damaged, sampler_of(path), evidence_of(look, path, [0]), prior, config, seed=0
    )
    unseen = path.select([2, 5, 8])
    before = psnr(damaged, unseen, look(unseen))
    after = psnr(refinement.run(), unseen, look(unseen))
    assert after > before + 3, (before, after)
    assert set(refinement.watch.seconds) == {"rasteriser", "prior", "optimiser"}


@pytest.mark.parametrize("views", [[0], [0, 2, 4, 6, 8]])
def test_a_continued_refinement_is_the_same_refinement(damaged, path, look, views):
    config = RefineConfig(
        iterations=7,
        density=DensityConfig(start=1, every=2, grow_gradient=1e-3),
        prune_every=3,
        resolution=ResolutionConfig.model_validate(
            {"stages": [{"start": 0, "shrink": 2}, {"start": 0.5, "shrink": 1}]}
        ),
    )

    def make(scene):
        evidence = evidence_of(look, path, views)
        return Refinement(
            scene, sampler_of(path), evidence, OraclePrior(look, SIGNAL), config, seed=3
        )

    whole = make(damaged)
    whole.run()
    first = make(damaged)
    for _ in range(4):
        first.step()
    second = make(damaged)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert second.num_steps == 4
    second.run()
    for name, value in whole.gaussians().tensors().items():
        assert torch.equal(value, second.gaussians().tensors()[name]), name
    for name, seconds in first.watch.seconds.items():
        assert second.watch.seconds[name] > seconds


def test_without_a_prior_frames_alone_mend_the_scene(damaged, path, look):
    evidence = evidence_of(look, path, [0, 2, 4, 6, 8])
    config = RefineConfig(iterations=80, deformation=None, rates={"colors": 2e-2})
    refined = Refinement(damaged, sampler_of(path), evidence, None, config, seed=0).run()
    unseen = path.select([1, 3, 5])
    assert psnr(refined, unseen, look(unseen)) > psnr(damaged, unseen, look(unseen)) + 3
    assert held_out_psnr(refined, evidence, 0.5) > held_out_psnr(damaged, evidence, 0.5) + 2


def test_cameras_of_frames_that_are_not_where_they_are_said_to_be_are_mended(truth, path, look):
    views = [0, 2, 4, 6, 8]
    noise = 0.02 * torch.randn(5, 6, generator=torch.Generator().manual_seed(4))
    noise[0] = 0
    said = path.select(views)
    there = replace(said, world_to_camera=rigid_motion(noise) @ said.world_to_camera)
    evidence = gather_evidence(look(there), said, EvidenceConfig(), seed=0)
    still = dict.fromkeys(("means", "quats", "scales", "opacities", "colors"), 1e-06)
    config = RefineConfig(
        iterations=80, deformation=None, poses=PoseConfig(rate=3e-3), rates=still, frames_per_step=3
    )
    refinement = Refinement(truth, sampler_of(path), evidence, None, config, seed=0)
    refinement.run()
    found = refinement.poses.cameras()
    shown = [0, *evidence.shown_frames]

    def error(some) -> float:
        return float((some.positions - there.positions)[shown].norm(dim=-1).mean())

    assert error(found) < 0.3 * error(said)


def test_held_out_pixels_have_no_say(damaged, path, look):
    evidence = evidence_of(look, path, [0, 2, 4, 6, 8])
    assert 0.05 < float((~evidence.shown[0]).float().mean()) < 0.3
    assert evidence.shown_frames == [1, 2, 4]
    spoilt = torch.where(evidence.shown[:, None], evidence.frames, 1 - evidence.frames)
    config = RefineConfig(iterations=3, deformation=None)
    one, other = (
        Refinement(damaged, sampler_of(path), some, None, config, seed=0).run()
        for some in (evidence, replace(evidence, frames=spoilt))
    )
    assert torch.equal(one.means, other.means) and torch.equal(one.colors, other.colors)
    assert held_out_psnr(damaged, evidence, 0.5) > held_out_psnr(
        damaged, replace(evidence, frames=spoilt), 0.5
    )


def test_frames_that_only_judge_are_all_held_out(look, path):
    cameras = path.select([0, 3, 6])
    evidence = gather_evidence(look(cameras), cameras, EvidenceConfig(), seed=0, judge_only=True)
    assert evidence.shown_frames == [] and not evidence.shown[1:].any() and evidence.shown[0].any()


def test_another_image_is_told_from_the_scenes_own(truth, damaged, path, look):
    evidence = evidence_of(look, path, [0])
    assert likeness(truth, evidence, 0.5) > 0.99
    assert likeness(damaged, evidence, 0.5) > 0.5
    check_input(truth, evidence, 0.5, "photo.jpg", "scene.ply")
    other = replace(evidence, frames=evidence.frames.flip(-1).flip(-2))
    with pytest.raises(UserError, match=r"photo\.jpg is not what scene\.ply was made from"):
        check_input(truth, other, 0.5, "photo.jpg", "scene.ply")


def test_nothing_to_go_by_is_refused(damaged, path, look):
    evidence = evidence_of(look, path, [0])
    config = RefineConfig(input_weight=0.0)
    with pytest.raises(UserError, match="nothing to go by"):
        Refinement(damaged, sampler_of(path), evidence, None, config, seed=0)


def test_a_prior_without_weight_is_no_prior(damaged, path, look):
    evidence = evidence_of(look, path, [0])
    config = RefineConfig(iterations=2, distill_weight=0.0)
    runs = [
        Refinement(damaged, sampler_of(path), evidence, prior, config, seed=0).run()
        for prior in (OraclePrior(look, SIGNAL), None)
    ]
    assert torch.equal(runs[0].means, runs[1].means)
    assert not torch.equal(runs[0].means, damaged.means)


@pytest.mark.parametrize("with_prior", [True, False])
def test_a_scene_that_ran_away_is_not_stepped(damaged, path, look, with_prior):
    prior = OraclePrior(look, SIGNAL) if with_prior else None
    evidence = evidence_of(look, path, [0])
    config = RefineConfig(iterations=2)
    refinement = Refinement(damaged, sampler_of(path), evidence, prior, config, seed=0)
    refinement.step()
    with torch.no_grad():
        refinement.scene.raw.tensors["colors"][:] = torch.nan
    means = refinement.gaussians().means.clone()
    with pytest.raises(UserError, match="the scene ran away at step 1; lower rates.means"):
        refinement.step()
    assert torch.equal(refinement.gaussians().means, means)
