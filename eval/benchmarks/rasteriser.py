"""The CPU rasteriser beside the float64 reference and the machine's measured peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from data.cameras import Cameras, intrinsics_from_fov
from eval.benchmarks.machine_peak import matmul_peak, median_seconds
from models.gaussians import Gaussians
from models.rendering import reference
from models.rendering.render import Backend, render
from models.rendering.settings import RenderSettings

FORWARD_FLOPS, BACKWARD_FLOPS = 32, 72
"""Arithmetic of one Gaussian at one pixel, counted by hand: 2 for the offset, 9 for the quadratic form, about
10 for the exponential, 3 for alpha and transmittance, 8 for colour and depth; the backward pass does this
again, and chains through all of it."""


MAX_COUNTED_PAIRS = 2e8


@dataclass(frozen=True)
class Case:
    """num_gaussians seen by num_views of height x width. compared: also drawn by the reference."""

    num_gaussians: int
    num_views: int
    height: int
    width: int
    compared: bool = False

    def name(self) -> str:
        views = f"{self.num_views} x " if self.num_views > 1 else ""
        return f"{self.num_gaussians:,} Gaussians, {views}{self.height}x{self.width}"


CASES = (
    Case(2_000, 1, 64, 96, compared=True),
    Case(26_112, 17, 64, 96),
    Case(10_000, 1, 128, 128),
    Case(100_000, 1, 256, 256),
    Case(100_000, 1, 480, 720),
)


def benchmark_rasteriser(
    threads: tuple[int, ...], repeats: int = 5, cases: tuple[Case, ...] = CASES
) -> dict[str, Any]:
    """Milliseconds forward, and forward with backward, per case and number of threads, with their ratios."""
    rows = []
    before = torch.get_num_threads()
    try:
        for num_threads in threads:
            torch.set_num_threads(num_threads)
            peak = matmul_peak(torch.float32)
            rows += [_measure(case, num_threads, peak, repeats) for case in cases]
    finally:
        torch.set_num_threads(before)
    return {"benchmark": "rasteriser", "rows": rows}


def random_scene(case: Case) -> tuple[Gaussians, Cameras]:
    """Gaussians in a box before a row of cameras: few pixels wide, half transparent."""
    generator = torch.Generator().manual_seed(0)
    count = case.num_gaussians
    box = torch.tensor([3.0, 2.0, 2.0])
    intrinsics = intrinsics_from_fov(50.0, case.height, case.width)
    to_world = torch.eye(4).repeat(case.num_views, 1, 1)
    to_world[:, 0, 3] = torch.linspace(-0.2, 0.2, case.num_views) if case.num_views > 1 else 0.0
    cameras = Cameras.from_camera_to_world(
        to_world, intrinsics.expand(case.num_views, 3, 3), case.height, case.width
    )
    # One Gaussian's share of the image, as a length at the middle of the box.
    spacing = (case.height * case.width / count) ** 0.5 * 2 / float(intrinsics[0, 0])
    gaussians = Gaussians(
        means=(torch.rand(count, 3, generator=generator) - 0.5) * box + torch.tensor([0.0, 0, 2.0]),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        scales=spacing * (0.5 + torch.rand(count, 3, generator=generator)),
        opacities=0.2 + 0.6 * torch.rand(count, generator=generator),
        colors=torch.rand(count, 3, generator=generator),
    )
    return gaussians, cameras


@torch.no_grad()
def count_blends(gaussians: Gaussians, cameras: Cameras) -> int:
    """How often a Gaussian touches a pixel before that pixel is finished, by the reference's own rules."""
    eps2d = RenderSettings().eps2d
    total = 0
    for view in range(cameras.num_views):
        world_to_camera, intrinsics = cameras.world_to_camera[view], cameras.intrinsics[view]
        centers, covariances, depths = reference.project(
            gaussians, world_to_camera, intrinsics, cameras.height, cameras.width
        )
        covariances = covariances + eps2d * torch.eye(2)
        order = reference.front_to_back(depths, depths > RenderSettings().near)
        pixels = reference.pixel_grid(cameras.height, cameras.width).to(centers)
        at_once = max(1, 4_000_000 // gaussians.num_gaussians)
        for some in pixels.split(at_once):
            alphas = reference.splat_alphas(
                centers[order], covariances[order], gaussians.opacities[order], some
            )
            weights, _ = reference.composite(alphas)
            total += int((weights > 0).sum())
    return total


def _measure(case: Case, threads: int, peak: float, repeats: int) -> dict[str, Any]:
    gaussians, cameras = random_scene(case)
    forward = median_seconds(lambda: _forward(gaussians, cameras, "cpu"), repeats)
    both = median_seconds(lambda: _forward_backward(gaussians, cameras, "cpu"), repeats)
    row: dict[str, Any] = {
        "case": case.name(),
        "threads": threads,
        "forward_ms": round(1e3 * forward, 3),
        "forward_backward_ms": round(1e3 * both, 3),
        "peak_gflops": round(peak / 1e9, 1),
    }
    # Counting takes the reference's time: one view stands for all, and large cases go without.
    if case.num_gaussians * case.height * case.width < MAX_COUNTED_PAIRS:
        blends = case.num_views * count_blends(gaussians, cameras.select(case.num_views // 2))
        flops = blends * FORWARD_FLOPS
        row["blends"] = blends
        row["forward_share_of_peak"] = round(flops / forward / peak, 4)
        row["both_share_of_peak"] = round(
            blends * (FORWARD_FLOPS + BACKWARD_FLOPS) / both / peak, 4
        )
    if case.compared:
        double = gaussians.to(torch.float64), cameras.to(torch.float64)
        reference_forward = median_seconds(lambda: _forward(*double, "reference"), 1)
        reference_both = median_seconds(lambda: _forward_backward(*double, "reference"), 1)
        row["forward_times_reference"] = round(reference_forward / forward, 1)
        row["both_times_reference"] = round(reference_both / both, 1)
    return row


@torch.no_grad()
def _forward(gaussians: Gaussians, cameras: Cameras, backend: Backend) -> None:
    render(gaussians, cameras, backend=backend)


def _forward_backward(gaussians: Gaussians, cameras: Cameras, backend: Backend) -> None:
    leaves = {name: t.detach().requires_grad_() for name, t in gaussians.tensors().items()}
    drawn = render(Gaussians(**leaves), cameras, backend=backend)
    drawn.frames.square().mean().backward()
