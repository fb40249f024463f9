"""Distillation's machinery, apart from how good a prior is: an oracle mends damaged procedural scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.cameras import Cameras
from data.procedural import clips
from data.procedural.config import SceneConfig
from data.procedural.tracer import trace
from models.autoencoders.files import load_autoencoder
from models.bundled_weights import TINY_AUTOENCODER
from models.gaussians import Gaussians
from models.priors.oracle import OraclePrior
from models.rendering.render import render
from models.video.base import create_scheduler
from train.distillation.cameras import CameraSampler, CameraSamplerConfig
from train.distillation.evidence import EvidenceConfig, gather_evidence
from train.distillation.refine import RefineConfig, Refinement
from train.fitting.starts import StartConfig, gaussians_from_depth

SIZE = SceneConfig(height=32, width=48, num_frames=9, num_near=4, num_far=0)
COUNT = 2000
CONFIG = RefineConfig(
    iterations=80,
    distill_weight=0.3,
    rates={"means": 2e-3, "colors": 2e-2, "scales": 1e-2, "opacities": 3e-2},
)


class TrueViews:
    """The pictures of a clip's scene from any cameras in its axes and unit, developed like its own frames."""

    def __init__(self, seed: int, scale: float) -> None:
        self.seed, self.scale = seed, scale
        self.scene, views, self.lens = clips.draw_posed_scene(seed, SIZE)
        self.first = views.camera_to_world[0]

    def __call__(self, cameras: Cameras) -> torch.Tensor:
        to_world = cameras.to(torch.float64).camera_to_world.clone()
        to_world[:, :3, 3] *= self.scale
        # The first picture sets the exposure.
        poses = self.first @ np.concatenate([np.eye(4)[None], to_world.numpy()])
        linear, _ = trace(
            self.scene, poses, self.lens, SIZE.height, SIZE.width, supersampling=SIZE.supersampling
        )
        pictures = clips.develop(linear, clips.draw_brightness(self.seed))[1:]
        return torch.from_numpy(pictures).movedim(-1, 1).contiguous()


def damage(scene: Gaussians, seed: int) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    return replace(
        scene,
        means=scene.means * (1 + 0.05 * torch.randn(COUNT, 1, generator=g)),
        scales=scene.scales * (0.4 * torch.randn(COUNT, 3, generator=g)).exp(),
        colors=(scene.colors + 0.3 * torch.randn(COUNT, 3, generator=g)).clamp(0, 1),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(940_000_000, 940_000_008))
def test_an_oracle_raises_unseen_views_of_a_damaged_scene_by_3_db(seed):
    clip = clips.make_clip(seed, SIZE)
    look = TrueViews(seed, clip.scale)
    # Rounding of a pose may move an edge by a ray.
    assert (look(clip.cameras) - clip.frames).abs().mean() < 1e-3
    path, generator = clip.cameras.select(list(range(9))), torch.Generator().manual_seed(0)
    start = StartConfig(num_gaussians=COUNT, opacity=0.6)
    damaged = damage(
        gaussians_from_depth(clip.frames[:9], path, clip.depth[:9], start, generator), seed
    )
    evidence = gather_evidence(clip.frames[:1], path.select(0), EvidenceConfig(), seed=0)
    prior = OraclePrior(look, create_scheduler().alphas_cumprod, load_autoencoder(TINY_AUTOENCODER))
    sampler = CameraSampler(path, 1.0, CameraSamplerConfig())
    refined = Refinement(damaged, sampler, evidence, prior, CONFIG, seed=0).run()

    def psnr(scene: Gaussians) -> float:
        views = list(range(9, 13))
        drawn = render(scene, clip.cameras.select(views), background=torch.full((3,), 0.5)).frames
        return float(-10 * (drawn.clamp(0, 1) - clip.frames[views]).square().mean().log10())

    before, after = psnr(damaged), psnr(refined)
    print(f"{seed}: {before:.2f} -> {after:.2f} dB")
    assert after > before + 3
