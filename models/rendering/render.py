"""Pictures of Gaussians: one function, three backends of one semantics (gsplat 1.5.3's).

backend      where it runs            what for
gsplat       CUDA                     everything at scale
cpu          any CPU, float32         the embedded default
reference    anywhere, any dtype      the truth that the other two are tested against; slow

Tensors that hold no values (fake ones, meta) are drawn by shape alone, for rehearsals without a GPU.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from models.fake_tensors import has_values
from models.gaussians import Gaussians
from models.rendering.screen import ScreenTrace
from models.rendering.settings import RenderSettings

Backend = Literal["auto", "gsplat", "cpu", "reference"]
Rasteriser = Callable[
    [Gaussians, Cameras, RenderSettings, ScreenTrace | None], tuple[Tensor, Tensor, Tensor]
]

MIN_ALPHA_FOR_DEPTH = 1e-10


@dataclass(frozen=True)
class Rendering:
    """Views of a scene.

    frames: colour, composited on the background.
    depth: sum of weight * camera z over the Gaussians of a pixel, scene units; not divided by alpha.
    alpha: sum of the weights, in [0, 1).
    """

    frames: Float[Tensor, "*batch v 3 h w"]
    depth: Float[Tensor, "*batch v h w"]
    alpha: Float[Tensor, "*batch v h w"]

    @property
    def expected_depth(self) -> Float[Tensor, "*batch v h w"]:
        """Mean camera z of what a pixel sees, scene units; 0 where it sees nothing."""
        return self.depth / self.alpha.clamp(min=MIN_ALPHA_FOR_DEPTH)


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Float[Tensor, " 3"] | Float[Tensor, "*batch v 3"] | None = None,
    antialiased: bool = False,
    backend: Backend = "auto",
    near: float = 0.01,
    far: float = 1e10,
    eps2d: float = 0.3,
    trace: ScreenTrace | None = None,
) -> Rendering:
    """Views of `gaussians` from `cameras`, differentiable in the Gaussians, world_to_camera and background.

    gaussians: one scene, or a batch whose `*batch` equals that of `cameras`.
    background: RGB behind everything; None is black.
    antialiased: scale opacities so that small splats keep their integral when dilated.
    backend: "auto" is gsplat for CUDA tensors, the CPU rasteriser elsewhere, shapes alone where there are no values.
    near, far: Gaussians whose centre's camera z lies outside are left out [scene units].
    eps2d: added to the 2-D covariances' diagonal [px^2].
    trace: gets what becomes of each Gaussian on the screen; for one scene, not a batch.

    Raises UserError when the backend cannot run here.
    """
    batch = gaussians.batch_shape
    assert cameras.world_to_camera.shape[:-3] == batch, (
        f"Gaussians of batch {tuple(batch)}, cameras of {tuple(cameras.world_to_camera.shape[:-3])}"
    )
    settings = RenderSettings(antialiased=antialiased, near=near, far=far, eps2d=eps2d)
    if backend == "auto" and not has_values(gaussians.means):
        from models.rendering import by_shape

        rasterise: Rasteriser = by_shape.rasterise
    else:
        rasterise = find_rasteriser(backend, gaussians.means.device)
    size = math.prod(batch)
    if trace is not None:
        assert not batch, "a trace is of one scene"
        trace.begin(cameras.num_views, gaussians.num_gaussians, gaussians.means.device)
    flat_gaussians = Gaussians(
        **{name: t.reshape(size, *t.shape[len(batch) :]) for name, t in gaussians.tensors().items()}
    )
    flat_cameras = replace(
        cameras,
        world_to_camera=cameras.world_to_camera.reshape(size, -1, 4, 4),
        intrinsics=cameras.intrinsics.reshape(size, -1, 3, 3),
    )
    frames, depth, transmittance = (
        t.reshape(*batch, *t.shape[1:])
        for t in rasterise(flat_gaussians, flat_cameras, settings, trace)
    )
    if background is not None:
        behind = background.to(frames)[..., None, None]
        frames = frames + transmittance[..., None, :, :] * behind
    return Rendering(frames, depth, 1 - transmittance)


def find_rasteriser(backend: Backend, device: torch.device) -> Rasteriser:
    """The function that draws for `backend`; raises UserError where it cannot run."""
    if backend == "auto":
        backend = "cpu"
        if device.type == "cuda":
            from models.rendering.gsplat_backend import why_unavailable

            reason = why_unavailable(device)
            if reason is None:
                backend = "gsplat"
            else:
                warnings.warn(f"rendering CUDA tensors on the CPU, slowly: {reason}", stacklevel=3)
    if backend == "cpu":
        from models.rendering import cpu

        return cpu.rasterise
    if backend == "reference":
        from models.rendering import reference

        return reference.rasterise
    if backend == "gsplat":
        from models.rendering import gsplat_backend

        reason = gsplat_backend.why_unavailable(device)
        if reason is not None:
            raise UserError(f"rendering backend 'gsplat' cannot run: {reason}")
        return gsplat_backend.rasterise
    raise UserError(
        f"unknown rendering backend '{backend}'; expected auto, gsplat, cpu or reference"
    )
