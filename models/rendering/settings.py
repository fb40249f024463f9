"""What a renderer may be asked to do differently; the defaults are gsplat's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RenderSettings:
    """antialiased: scale opacities so that a dilated splat keeps its integral (Mip-Splatting).
    near, far: Gaussians whose centre's camera z lies outside are left out [scene units].
    eps2d: added to the 2-D covariances' diagonal [px^2].
    """

    antialiased: bool = False
    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
