"""The stand-in for gsplat against gsplat's own Python code over kernels that return nothing but shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering import by_shape
from models.rendering.render import render
from models.rendering.settings import RenderSettings
from train.planning.memory_tracker import MemoryTracker

BATCH, VIEWS, NUM, HEIGHT, WIDTH = 2, 3, 4000, 64, 96


def make_inputs() -> tuple[Gaussians, Cameras]:
    sizes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "colors": (3,)}
    gaussians = Gaussians(
        **{name: torch.rand(BATCH, NUM, *size, requires_grad=True) for name, size in sizes.items()}
    )
    cameras = Cameras(
        torch.eye(4).repeat(BATCH, VIEWS, 1, 1),
        torch.eye(3).repeat(BATCH, VIEWS, 1, 1),
        HEIGHT,
        WIDTH,
    )
    return gaussians, cameras


def kernels(name: str) -> Any:
    """gsplat's compiled functions by name, as their C++ declarations have them: shapes, dtypes, temporaries."""

    def project(means: Tensor, covars: Any, quats: Any, scales: Any, opacities: Any, viewmats: Tensor, *rest: Any):  # type: ignore[no-untyped-def]  # fmt: skip
        shape = (*viewmats.shape[:-2], means.shape[-2])
        new = means.new_empty
        radii = new((*shape, 2), dtype=torch.int32)
        return radii, new((*shape, 2)), new(shape), new((*shape, 3)), new(0)

    def project_backward(means: Tensor, covars: Any, quats: Tensor, scales: Tensor, viewmats: Tensor, *rest: Any):  # type: ignore[no-untyped-def]  # fmt: skip
        return (torch.zeros_like(means), None, torch.zeros_like(quats), torch.zeros_like(scales),
                torch.zeros_like(viewmats))  # fmt: skip

    def intersect(means: Tensor, radii: Tensor, depths: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        total = math.ceil(by_shape.TILES_PER_SPLAT * depths.numel())
        tiles = torch.empty_like(depths, dtype=torch.int32)
        running = tiles.view(-1).cumsum(0)
        keys, ids = (
            depths.new_empty(total, dtype=torch.int64),
            depths.new_empty(total, dtype=torch.int32),
        )
        sorted_keys, sorted_ids = torch.empty_like(keys), torch.empty_like(ids)
        del running
        return tiles, sorted_keys, sorted_ids

    def offsets(keys: Tensor, images: int, width: int, height: int) -> Tensor:
        return keys.new_empty((images, height, width), dtype=torch.int32)

    def draw(means: Tensor, conics: Tensor, colors: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        width, height = rest[3:5]
        shape = (*means.shape[:-2], height, width)
        new = means.new_empty
        return new((*shape, colors.shape[-1])), new((*shape, 1)), new(shape, dtype=torch.int32)

    def draw_backward(means: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, *rest: Any):  # type: ignore[no-untyped-def]  # fmt: skip
        return None, *(torch.zeros_like(x) for x in (means, conics, colors, opacities))

    return {
        "projection_ewa_3dgs_fused_fwd": project,
        "projection_ewa_3dgs_fused_bwd": project_backward,
        "intersect_tile": intersect,
        "intersect_offset": offsets,
        "rasterize_to_pixels_3dgs_fwd": draw,
        "rasterize_to_pixels_3dgs_bwd": draw_backward,
    }[name]


def tracked(rasterise: Any) -> tuple[int, int, int]:
    """Bytes after the forward pass, and the most at once in it and in all, beside the inputs."""
    gaussians, cameras = make_inputs()
    tracker = MemoryTracker()
    tracker.leave_out([*gaussians.tensors().values(), cameras.world_to_camera, cameras.intrinsics])
    with tracker:
        frames, depth, transmittance = rasterise(gaussians, cameras, RenderSettings())
        kept, most = tracker.total, tracker.peak
        loss = frames.square().mean() + depth.mean() + transmittance.mean()
        loss.backward()
    assert all(t.grad is not None for t in gaussians.tensors().values())
    return kept, most, tracker.peak


def test_memory_is_that_of_gsplats_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from gsplat.cuda import _wrapper

    from models.rendering import gsplat_backend

    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_func", kernels)
    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_obj", lambda name: None)
    theirs, ours = tracked(gsplat_backend.rasterise), tracked(by_shape.rasterise)
    splats = BATCH * VIEWS * NUM
    assert theirs[0] > 52 * splats  # two thirds of what is kept are 13 numbers a splat
    assert ours == pytest.approx(theirs, rel=0.02)


def test_shapes_are_the_renderers(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        gaussians, cameras = make_inputs()
        drawn = render(gaussians, cameras, background=torch.zeros(3))
        drawn.frames.mean().backward()
    assert drawn.frames.shape == (BATCH, VIEWS, 3, HEIGHT, WIDTH)
    assert drawn.depth.shape == drawn.alpha.shape == (BATCH, VIEWS, HEIGHT, WIDTH)
    assert all(t.grad.shape == t.shape for t in gaussians.tensors().values())


def test_what_has_values_is_drawn_for_real() -> None:
    gaussians, cameras = make_inputs()
    with torch.no_grad():
        drawn = render(gaussians, cameras)
    assert drawn.frames.isfinite().all() and not torch.equal(drawn.frames, torch.zeros(1))


def test_splats_touch_as_many_tiles_as_is_said() -> None:
    """Of a new LaLRM, whose Gaussians are 0.7 footprints of a half-resolution cell, by gsplat's reference."""
    from gsplat.cuda._torch_impl import _isect_tiles

    generator = torch.Generator().manual_seed(0)
    means = torch.rand(1, 20_000, 2, generator=generator) * torch.tensor([720.0, 480.0])
    variance = (0.7 * 2) ** 2 + 0.3
    extent = min(3.33, math.sqrt(2 * math.log(255 * 0.5)))
    radius = math.ceil(extent * math.sqrt(variance))
    radii = torch.full((1, 20_000, 2), radius, dtype=torch.int32)
    depths = torch.rand(1, 20_000, generator=generator)
    tiles, *_ = _isect_tiles(means, radii, depths, by_shape.TILE, 45, 30, sort=False)
    assert float(tiles.float().mean()) == pytest.approx(by_shape.TILES_PER_SPLAT, rel=0.1)
