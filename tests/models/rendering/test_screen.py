"""Screen traces: the CPU rasteriser's against the reference's, whose gradients are autograd's."""

from __future__ import annotations

import pytest
import torch

from models.gaussians import Gaussians
from models.rendering import cpu
from models.rendering.render import render
from models.rendering.screen import ScreenTrace


def traced(scene, cameras, backend: str, dtype: torch.dtype, **options) -> tuple[ScreenTrace, dict]:
    inputs = {name: t.detach().to(dtype).requires_grad_() for name, t in scene.tensors().items()}
    trace = ScreenTrace()
    drawn = render(Gaussians(**inputs), cameras.to(dtype), backend=backend, trace=trace, **options)
    weights = torch.randn(drawn.frames.shape, generator=torch.Generator().manual_seed(3))
    (weights.to(dtype) * drawn.frames).sum().backward()
    return trace, {name: t.grad for name, t in inputs.items()}


@pytest.mark.parametrize("kind", ["plain", "needles", "outside the frustum", "many layers"])
def test_cpu_agrees_with_the_reference(scene_factory, kind):
    scene, cameras = scene_factory(kind)
    expected, _ = traced(scene, cameras, "reference", torch.float64)
    found, _ = traced(scene, cameras, "cpu", torch.float32)
    assert expected.gradients.norm() > 1
    error = (found.gradients.double() - expected.gradients).norm() / expected.gradients.norm()
    assert error < 1e-4
    drawn = expected.radii > 0
    assert int(drawn.sum()) > 10 and (drawn == (found.radii > 0)).float().mean() > 0.999
    both = drawn & (found.radii > 0)
    assert torch.allclose(found.radii[both], expected.radii[both].float(), rtol=1e-3)


def test_tracing_changes_no_gradient_and_views_may_come_in_passes(scene_factory, monkeypatch):
    scene, cameras = scene_factory("plain", num_gaussians=300, num_views=3)
    whole, gradients = traced(scene, cameras, "cpu", torch.float32)
    monkeypatch.setattr(cpu, "MAX_ROWS", 600)  # two views a pass
    parts, in_parts = traced(scene, cameras, "cpu", torch.float32)
    assert torch.equal(whole.radii, parts.radii)
    assert torch.equal(whole.gradients, parts.gradients)
    inputs = {name: t.float().requires_grad_() for name, t in scene.detach().tensors().items()}
    drawn = render(Gaussians(**inputs), cameras.to(torch.float32), backend="cpu")
    weights = torch.randn(drawn.frames.shape, generator=torch.Generator().manual_seed(3))
    (weights * drawn.frames).sum().backward()
    for name, value in inputs.items():
        assert torch.equal(value.grad, in_parts[name])
        assert torch.allclose(gradients[name], in_parts[name], rtol=1e-3, atol=1e-4)
