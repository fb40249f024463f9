"""The CPU backend: a differentiable rasteriser in numba with gsplat's semantics, float32.

Bitwise the same result for any number of threads, which `torch.set_num_threads` chooses. The kernels are compiled
at first use (some seconds, then kept beside the source files).

Legend: n Gaussians, v views; "padded" is n rounded up to whole rows of lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from configs.errors import UserError
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.cpu_bins import list_splats, place_tiles
from models.rendering.cpu_draw import draw_tiles
from models.rendering.cpu_draw_backward import draw_tiles_backward
from models.rendering.cpu_project import project
from models.rendering.cpu_project_backward import project_backward
from models.rendering.cpu_rows import CAMERA, ROW, TILE
from models.rendering.cpu_screen import splat_rows, trace_gradients, trace_radii
from models.rendering.screen import ScreenTrace
from models.rendering.settings import FRUSTUM_MARGIN, RenderSettings
from models.rendering.spherical_harmonics import view_colors
from models.rendering.threads import run_pieces

MIN_CHUNK = 1024
"""Gaussians per unit of work, at least; a multiple of ROW."""
MAX_CHUNKS = 64
MAX_ROWS = 1 << 23
"""Splats (Gaussians times views) in one pass, to bound memory at 64 bytes each; more views take more passes."""
MAX_PAIRS = 1 << 31


def rasterise(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RenderSettings,
    trace: ScreenTrace | None = None,
) -> tuple[Float[Tensor, "b v 3 h w"], Float[Tensor, "b v h w"], Float[Tensor, "b v h w"]]:
    """Colour on black, sum of weight * z, and transmittance, of a batch `[b]` of scenes.

    Computes in float32 on the CPU; the result comes back in the means' dtype and on their device.
    Gaussians with NaN or infinite entries are left out and get zero gradients. A trace takes a batch of one.
    """
    inputs = (
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        view_colors(gaussians, cameras),
        cameras.world_to_camera,
        cameras.intrinsics,
    )
    # Unbound rather than indexed: its gradient is one stack.
    by_input = [t.to("cpu", torch.float32).unbind(0) for t in inputs]
    scenes = [
        rasterise_scene(
            cameras.width, cameras.height, settings, *(t[scene] for t in by_input), trace=trace
        )
        for scene in range(len(gaussians.means))
    ]
    frames, depth, transmittance = (
        torch.stack(parts).to(gaussians.means) for parts in zip(*scenes, strict=True)
    )
    return frames, depth, transmittance


def rasterise_scene(
    width: int,
    height: int,
    settings: RenderSettings,
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    colors: Float[Tensor, "n 3"] | Float[Tensor, "v n 3"],
    world_to_camera: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 3 3"],
    *,
    trace: ScreenTrace | None = None,
) -> tuple[Float[Tensor, "v 3 h w"], Float[Tensor, "v h w"], Float[Tensor, "v h w"]]:
    """Colour on black, sum of weight * z, and transmittance of one scene, float32 on the CPU."""
    inputs = (means, quats, scales, opacities, colors, world_to_camera)
    differentiate = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    views = max(1, MAX_ROWS // max(1, len(means)))
    passes = [
        Rasterise.apply(
            means,
            quats,
            scales,
            opacities,
            colors if colors.ndim == 2 else colors[start : start + views],
            world_to_camera[start : start + views],
            intrinsics[start : start + views],
            width,
            height,
            settings,
            differentiate,
            None if trace is None else (trace, start),
        )
        for start in range(0, len(world_to_camera), views)
    ]
    if len(passes) == 1:
        return passes[0]
    frames, depth, transmittance = (torch.cat(parts) for parts in zip(*passes, strict=True))
    return frames, depth, transmittance


@dataclass(frozen=True)
class Layout:
    """Sizes and arrays that forward and backward share; names as in the kernels."""

    num_gaussians: int
    num_views: int
    width: int
    height: int
    color_view_stride: int
    cameras: NDArray[np.float32]

    @cached_property
    def padded(self) -> int:
        return -(-self.num_gaussians // ROW) * ROW

    @cached_property
    def chunk_size(self) -> int:
        """Gaussians per unit of work: a function of the scene alone, so that sums are always cut the same."""
        return max(MIN_CHUNK, -(-self.padded // (MAX_CHUNKS * ROW)) * ROW)

    @cached_property
    def num_chunks(self) -> int:
        return -(-self.padded // self.chunk_size)

    @cached_property
    def tiles_x(self) -> int:
        return -(-self.width // TILE)

    @cached_property
    def num_tiles(self) -> int:
        """Tiles of one view."""
        return self.tiles_x * -(-self.height // TILE)


class Rasterise(torch.autograd.Function):
    """The kernels as one differentiable operation. Gradients to all inputs but the intrinsics.

    `keep`: remember what the backward pass needs. `traced`: a trace to fill, and the number of its first view here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        world_to_camera: Tensor,
        intrinsics: Tensor,
        width: int,
        height: int,
        settings: RenderSettings,
        keep: bool,
        traced: tuple[ScreenTrace, int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        parameters = [t.contiguous() for t in (means, quats, scales, opacities)]
        layout = Layout(
            num_gaussians=len(means),
            num_views=len(world_to_camera),
            width=width,
            height=height,
            color_view_stride=0 if colors.ndim == 2 else 3 * len(means),
            cameras=pack_cameras(world_to_camera, intrinsics, width, height),
        )
        num_rows = layout.num_views * layout.padded
        num_groups = layout.num_chunks * layout.num_views
        num_all_tiles = layout.num_views * layout.num_tiles

        gaussian_rows = np.empty(layout.padded * ROW, np.float32)
        splats = np.empty(num_rows * ROW, np.float32)
        num_visible = np.empty(num_groups, np.int32)
        num_pairs = np.empty(num_groups, np.int64)
        tile_counts = np.zeros(num_groups * layout.num_tiles, np.int32)
        run_pieces(
            project,
            layout.num_chunks,
            layout.chunk_size,
            layout.num_gaussians,
            layout.num_views,
            *map(flat, parameters),
            flat(colors.contiguous()),
            layout.color_view_stride,
            layout.cameras,
            width,
            height,
            layout.tiles_x,
            layout.num_tiles,
            settings.near,
            settings.far,
            settings.eps2d,
            settings.antialiased,
            gaussian_rows,
            splats,
            splats.view(np.int32),
            num_visible,
            num_pairs,
            tile_counts,
        )
        total = int(num_pairs.sum())
        if total >= MAX_PAIRS:
            raise UserError(
                f"{layout.num_gaussians} Gaussians cover {total} tiles of {TILE}x{TILE} pixels in"
                f" {layout.num_views} views of {height}x{width}; the CPU rasteriser takes"
                f" {MAX_PAIRS - 1} at once: render fewer views at a time, or smaller Gaussians"
            )
        tile_starts = np.empty(num_all_tiles + 1, np.int64)
        place_tiles(
            layout.num_chunks,
            layout.num_views,
            layout.num_tiles,
            num_pairs,
            tile_counts,
            tile_starts,
        )
        keys, sorted_keys = np.empty(total, np.int64), np.empty(total, np.int64)
        run_pieces(
            list_splats,
            layout.num_chunks,
            layout.chunk_size,
            layout.num_views,
            layout.padded,
            layout.tiles_x,
            layout.num_tiles,
            num_visible,
            num_pairs,
            tile_counts,
            splats.view(np.int32),
            keys,
        )
        frames = torch.empty(layout.num_views, 3, height, width)
        depth = torch.empty(layout.num_views, height, width)
        transmittance = torch.empty(layout.num_views, height, width)
        stops = np.empty(depth.numel() if keep else 0, np.int32)
        reached = np.empty(total if keep else 0, np.uint64)
        num_drawn = np.empty(num_all_tiles, np.int64)
        run_pieces(
            draw_tiles,
            num_all_tiles,
            width,
            height,
            layout.tiles_x,
            layout.num_tiles,
            tile_starts,
            keys,
            sorted_keys,
            splats,
            flat(frames),
            flat(depth),
            flat(transmittance),
            keep,
            stops,
            reached,
            num_drawn,
            weights=np.diff(tile_starts) + 64,
        )
        if traced is not None:
            trace, first_view = traced
            rows = splat_rows(num_visible, layout.num_views, layout.padded, layout.chunk_size)
            radii = trace_radii(splats, rows, layout.num_views, layout.padded, layout.num_gaussians)
            trace.record_radii(first_view, radii.to(trace.radii))
        if keep:
            ctx.traced = traced
            ctx.save_for_backward(*parameters)
            ctx.layout, ctx.settings, ctx.num_threads = layout, settings, torch.get_num_threads()
            ctx.shapes = [t.shape for t in (means, quats, scales, opacities, colors)]
            ctx.arrays = (
                gaussian_rows,
                splats,
                num_visible,
                tile_starts,
                sorted_keys,
                flat(transmittance),
                stops,
                reached,
                num_drawn,
            )
        return frames, depth, transmittance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_frames: Tensor, grad_depth: Tensor, grad_transmittance: Tensor
    ) -> tuple[Tensor | None, ...]:
        layout, settings = ctx.layout, ctx.settings
        (
            gaussian_rows,
            splats,
            num_visible,
            tile_starts,
            sorted_keys,
            transmittance,
            stops,
            reached,
            num_drawn,
        ) = ctx.arrays
        moments = np.empty(len(sorted_keys) * ROW, np.float32)
        touched = np.zeros(len(sorted_keys), np.uint8)
        run_pieces(
            draw_tiles_backward,
            len(num_drawn),
            layout.width,
            layout.height,
            layout.tiles_x,
            layout.num_tiles,
            tile_starts,
            sorted_keys,
            splats,
            splats.view(np.int32),
            transmittance,
            stops,
            reached,
            num_drawn,
            flat(grad_frames.contiguous()),
            flat(grad_depth.contiguous()),
            flat(grad_transmittance.contiguous()),
            moments,
            touched,
            weights=num_drawn + 64,
            num_threads=ctx.num_threads,
        )
        if ctx.traced is not None:
            trace, first_view = ctx.traced
            rows = splat_rows(num_visible, layout.num_views, layout.padded, layout.chunk_size)
            centres = trace_gradients(
                splats,
                rows,
                moments,
                touched,
                layout.num_views,
                layout.padded,
                layout.num_gaussians,
            )
            trace.record_gradients(first_view, centres.to(trace.gradients))
        gradients = [torch.zeros(shape) for shape in ctx.shapes]
        camera_parts = np.zeros((layout.num_chunks, layout.num_views, 12))
        run_pieces(
            project_backward,
            layout.num_chunks,
            layout.chunk_size,
            layout.num_gaussians,
            layout.num_views,
            *map(flat, ctx.saved_tensors),
            layout.color_view_stride,
            layout.cameras,
            settings.eps2d,
            settings.antialiased,
            gaussian_rows,
            splats.view(np.int32),
            num_visible,
            moments,
            touched,
            *map(flat, gradients),
            camera_parts.reshape(-1),
            num_threads=ctx.num_threads,
        )
        camera = torch.from_numpy(camera_parts.sum(axis=0)).float()
        grad_world_to_camera = torch.zeros(layout.num_views, 4, 4)
        grad_world_to_camera[:, :3, :3] = camera[:, :9].unflatten(1, (3, 3))
        grad_world_to_camera[:, :3, 3] = camera[:, 9:]
        return *gradients, grad_world_to_camera, None, None, None, None, None, None


def flat(tensor: Tensor) -> NDArray[np.float32]:
    """A contiguous tensor's memory as a flat array."""
    return tensor.detach().view(-1).numpy()


def pack_cameras(
    world_to_camera: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 3 3"],
    width: int,
    height: int,
) -> NDArray[np.float32]:
    """Camera rows as cpu_rows.py's legend lists them, flat."""
    transform, matrix = (t.detach().double().numpy() for t in (world_to_camera, intrinsics))
    packed = np.empty((len(transform), CAMERA), np.float32)
    packed[:, :9] = transform[:, :3, :3].reshape(-1, 9)
    packed[:, 9:12] = transform[:, :3, 3]
    for axis, size in enumerate((width, height)):
        focal, center = matrix[:, axis, axis], matrix[:, axis, 2]
        margin = FRUSTUM_MARGIN * size / focal
        packed[:, 12 + axis] = focal
        packed[:, 14 + axis] = center
        packed[:, 16 + 2 * axis] = -center / focal - margin
        packed[:, 17 + 2 * axis] = (size - center) / focal + margin
    return packed.reshape(-1)
