"""The CUDA backend: gsplat's own rasteriser."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.screen import ScreenTrace
from models.rendering.settings import RenderSettings


def why_unavailable(device: torch.device) -> str | None:
    """None where gsplat can draw tensors of `device`, else the reason and the cure in one sentence."""
    if device.type != "cuda":
        return f"it needs CUDA tensors, found tensors on {device}; move them or use backend='cpu'"
    try:
        import gsplat  # noqa: F401
    except ImportError as error:
        return f"gsplat does not import ({error}); install it with: pip install '.[gpu]'"
    try:
        # Builds the kernels on first use where no built ones came with the package.
        from gsplat.cuda._backend import _C
    except (ImportError, OSError, RuntimeError) as error:
        return f"gsplat's CUDA kernels do not load ({error}); reinstall gsplat beside this torch"
    if _C is None:
        return "gsplat has no CUDA kernels here; install the CUDA toolkit (nvcc) that matches torch"
    return None


def rasterise(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RenderSettings,
    trace: ScreenTrace | None = None,
) -> tuple[Float[Tensor, "b v 3 h w"], Float[Tensor, "b v h w"], Float[Tensor, "b v h w"]]:
    """Colour on black, sum of weight * z, and transmittance, of a batch `[b]` of scenes, in float32.

    A trace takes a batch of one.
    """
    from gsplat import rasterization

    dtype = gaussians.means.dtype
    gaussians = gaussians.to(torch.float32)
    image, alpha, found = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors,
        viewmats=cameras.world_to_camera.to(gaussians.means),
        Ks=cameras.intrinsics.to(gaussians.means),
        width=cameras.width,
        height=cameras.height,
        near_plane=settings.near,
        far_plane=settings.far,
        eps2d=settings.eps2d,
        sh_degree=gaussians.sh_degree,
        render_mode="RGB+D",
        rasterize_mode="antialiased" if settings.antialiased else "classic",
        packed=False,
    )
    if trace is not None:
        trace.record_radii(0, found["radii"][0].amax(dim=-1).to(trace.radii))
        if found["means2d"].requires_grad:
            found["means2d"].register_hook(lambda g: trace.record_gradients(0, g[0]))
    image = image.movedim(-1, -3).to(dtype)
    return image[..., :3, :, :], image[..., 3, :, :], 1 - alpha[..., 0].to(dtype)
