"""Scenes that nothing can be made of, told in words."""

from __future__ import annotations

from configs.errors import UserError
from models.gaussians import Gaussians


def check_scene(gaussians: Gaussians, source: str) -> None:
    """Raises UserError where a scene is empty, transparent, exploded, or holds NaN or infinite values."""
    if not gaussians.num_gaussians:
        raise UserError(f"{source}: holds no Gaussians")
    for name, tensor in gaussians.tensors().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{source}: the scene's {name} hold NaN or infinite values")
    most = float(gaussians.opacities.max())
    if most < 1 / 255:
        raise UserError(
            f"{source}: the scene is transparent: its most opaque Gaussian has opacity {most:.2g}, and below 1/255"
            " nothing is drawn"
        )
    means = gaussians.means.double()
    spread = float((means - means.median(dim=0).values).norm(dim=1).median())
    size = float(gaussians.scales.amax(dim=1).median())
    if size > spread:
        raise UserError(
            f"{source}: the scene has no shape: half of its Gaussians are larger than {size:.3g}, and half lie within"
            f" {spread:.3g} of its middle; its optimisation may have exploded"
        )
