"""What can be checked of the CUDA backend without CUDA; test_cpu.py compares its pictures (marker gpu)."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from data.cameras import stack_cameras
from models.gaussians import stack_gaussians
from models.rendering import gsplat_backend
from models.rendering.settings import RenderSettings

gsplat = pytest.importorskip("gsplat")


@pytest.mark.parametrize("degree", [-1, 2])
def test_calls_gsplat_as_its_signature_says(
    scene_factory, monkeypatch: pytest.MonkeyPatch, degree: int
) -> None:
    signature = inspect.signature(gsplat.rasterization)
    calls: list[SimpleNamespace] = []

    def record(*args: object, **kwargs: object) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        bound = signature.bind(*args, **kwargs)
        call = SimpleNamespace(**bound.arguments)
        calls.append(call)
        shape = (*call.viewmats.shape[:-2], call.height, call.width)
        image = torch.arange(4.0).expand(*shape, 4)
        return image, torch.full((*shape, 1), 0.25), {}

    monkeypatch.setattr(gsplat, "rasterization", record)
    scenes = [scene_factory(sh_degree=degree) for _ in range(3)]
    gaussians = stack_gaussians([g for g, _ in scenes])
    cameras = stack_cameras([c for _, c in scenes])
    settings = RenderSettings(antialiased=True, near=0.5, far=9.0, eps2d=0.1)
    frames, depth, transmittance = gsplat_backend.rasterise(gaussians, cameras, settings)

    (call,) = calls
    assert call.means.dtype == call.viewmats.dtype == torch.float32
    assert call.sh_degree == (degree if degree >= 0 else None)
    assert (call.near_plane, call.far_plane, call.eps2d) == (0.5, 9.0, 0.1)
    assert (call.render_mode, call.rasterize_mode) == ("RGB+D", "antialiased")
    assert not call.packed
    height, width = cameras.height, cameras.width
    assert frames.shape == (3, 2, 3, height, width)
    assert frames[0, 0, :, 3, 4].tolist() == [0, 1, 2]
    assert depth.shape == (3, 2, height, width)
    assert (depth == 3).all()
    assert (transmittance == 0.75).all()
    assert frames.dtype == depth.dtype == transmittance.dtype == torch.float64


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert "CUDA tensors" in str(gsplat_backend.why_unavailable(torch.device("cpu")))
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))
    assert "nvcc" in str(gsplat_backend.why_unavailable(cuda))
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace())
    assert "kernels do not load" in str(gsplat_backend.why_unavailable(cuda))
    monkeypatch.setitem(sys.modules, "gsplat", None)
    assert "pip install '.[gpu]'" in str(gsplat_backend.why_unavailable(cuda))
