"""The constants of rendering, pinned to gsplat 1.5.3, and what a renderer may be asked to do differently."""

from __future__ import annotations

from dataclasses import dataclass

MIN_ALPHA = 1 / 255
"""Where its alpha is below this, a Gaussian does not touch a pixel."""
MAX_ALPHA = 0.999
"""Alphas are clamped to this: gsplat 1.5.3's value; 1.6 has 0.99."""
MIN_TRANSMITTANCE = 1e-4
"""A Gaussian that would take a pixel's transmittance to this or below is left out, and the pixel is finished."""
FRUSTUM_MARGIN = 0.15
"""How far outside the image, in image sizes, x/z and y/z are clamped for the projection's Jacobian."""


@dataclass(frozen=True)
class RenderSettings:
    """The defaults are gsplat's.

    antialiased: scale opacities so that a dilated splat keeps its integral (Mip-Splatting).
    near, far: Gaussians whose centre's camera z lies outside are left out [scene units].
    eps2d: added to the 2-D covariances' diagonal [px^2].
    """

    antialiased: bool = False
    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
