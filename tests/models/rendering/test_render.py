"""What `render` accepts, chooses and refuses."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.cameras import stack_cameras
from models.rendering.render import find_rasteriser, render


def test_auto_is_the_cpu_rasteriser_for_cpu_tensors(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    gaussians, cameras = gaussians.to(torch.float32), cameras.to(torch.float32)
    chosen = render(gaussians, cameras)
    assert torch.equal(chosen.frames, render(gaussians, cameras, backend="cpu").frames)


def test_a_backend_that_cannot_run_says_why(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    with pytest.raises(UserError, match="needs CUDA tensors, found tensors on cpu.*'cpu'"):
        render(gaussians, cameras, backend="gsplat")


def test_cuda_without_gsplat_falls_back_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.rendering import gsplat_backend

    monkeypatch.setattr(gsplat_backend, "why_unavailable", lambda device: "no kernels")
    with pytest.warns(UserWarning, match="on the CPU, slowly: no kernels"):
        find_rasteriser("auto", torch.device("cuda"))
    with pytest.raises(UserError, match="no kernels"):
        find_rasteriser("gsplat", torch.device("cuda"))


def test_backgrounds(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    black = render(gaussians, cameras)
    one = torch.tensor([0.3, 0.6, 0.9])
    each = torch.stack([one, 1 - one])
    behind = 1 - black.alpha[:, None]
    for background in (one, each, each.double()):
        painted = render(gaussians, cameras, background=background)
        expected = black.frames + behind * background.expand(2, 3)[:, :, None, None]
        torch.testing.assert_close(painted.frames, expected, rtol=0, atol=1e-6)
        assert torch.equal(painted.depth, black.depth)


def test_expected_depth_is_a_mean_of_depths(scene_factory) -> None:
    gaussians, cameras = scene_factory("giants")
    picture = render(gaussians, cameras)
    seen = picture.alpha > 1e-3
    z = cameras.project(gaussians.means)[1]
    for view in range(2):
        depth = picture.expected_depth[view][seen[view]]
        assert depth.min() >= z[view].min() - 1e-3
        assert depth.max() <= z[view].max() + 1e-3
    assert (picture.expected_depth[picture.alpha == 0] == 0).all()


def test_batches_must_match(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    batched = stack_cameras([cameras, cameras])
    with pytest.raises(AssertionError, match="batch"):
        render(gaussians, batched)
