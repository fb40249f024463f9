"""Lens distortion: pictures of real lenses become pinhole pictures."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import pixel_centres

MAX_ZOOM = 4.0
"""A lens that needs a narrower view than this to leave no blank border is refused."""


@dataclass(frozen=True)
class Distortion:
    """OpenCV's radial (k1, k2, k3) and tangential (p1, p2) coefficients; all 0 is a pinhole.

    COLMAP's SIMPLE_RADIAL, RADIAL and OPENCV models, and nerfstudio's OPENCV, are cases of it.
    """

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def is_none(self) -> bool:
        return not any(astuple(self))

    def distort(self, points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
        """Where the lens puts pinhole points (x, y) at depth 1."""
        x, y = points.unbind(-1)
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        return torch.stack(
            [
                x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
                y * radial + 2 * self.p2 * x * y + self.p1 * (r2 + 2 * y * y),
            ],
            dim=-1,
        )


NO_DISTORTION = Distortion()


def undistort(
    image: Float[Tensor, "c h w"],
    intrinsics: Float[Tensor, "3 3"],
    distortion: Distortion,
    source: str,
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "3 3"]]:
    """The picture that a pinhole camera would have taken, of the same size, and its intrinsics.

    Focal lengths are kept, or raised just so far that the result has no blank border.
    Raises UserError that names `source` where the coefficients fold the picture over itself, or
    bend it so far that less than 1 / `MAX_ZOOM` of its width would be left.
    """
    if distortion.is_none:
        return image, intrinsics
    height, width = image.shape[-2:]
    lens = intrinsics.to(torch.float64)
    pinhole = _zoom_until_filled(lens, distortion, height, width, source)
    _refuse_folding(pinhole, distortion, height, width, source)
    pixels = _lens_pixels(pixel_centres(height, width)[..., :2], pinhole, lens, distortion)
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    resampled = torch.nn.functional.grid_sample(
        image[None],
        grid[None].to(image.dtype),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return resampled[0].clamp(0, 1), pinhole.to(intrinsics.dtype)


def _lens_pixels(
    pixels: Float[Tensor, "*shape 2"],
    pinhole: Float[Tensor, "3 3"],
    lens: Float[Tensor, "3 3"],
    distortion: Distortion,
) -> Float[Tensor, "*shape 2"]:
    """Where the lens put what the pinhole camera sees at `pixels`."""
    points = (pixels - pinhole[:2, 2]) / pinhole.diagonal()[:2]
    return distortion.distort(points) * lens.diagonal()[:2] + lens[:2, 2]


def _zoom_until_filled(
    lens: Float[Tensor, "3 3"], distortion: Distortion, height: int, width: int, source: str
) -> Float[Tensor, "3 3"]:
    """Intrinsics with the smallest zoom of at least 1 whose whole border the lens has seen."""
    border = _border(height, width)
    size = border.new_tensor([width, height])

    def zoomed(zoom: float) -> Float[Tensor, "3 3"]:
        return lens * lens.new_tensor([[zoom, 1, 1], [1, zoom, 1], [1, 1, 1]])

    def filled(zoom: float) -> bool:
        seen = _lens_pixels(border, zoomed(zoom), lens, distortion)
        return bool(((seen >= 0) & (seen <= size)).all())

    if filled(1.0):
        return zoomed(1.0)
    if not filled(MAX_ZOOM):
        raise UserError(f"{source}: {distortion} is too strong to be undone; use a pinhole capture")
    too_wide, narrow = 1.0, MAX_ZOOM
    while narrow - too_wide > 1e-6:
        middle = (too_wide + narrow) / 2
        too_wide, narrow = (too_wide, middle) if filled(middle) else (middle, narrow)
    return zoomed(narrow)


def _refuse_folding(
    pinhole: Float[Tensor, "3 3"], distortion: Distortion, height: int, width: int, source: str
) -> None:
    """Raises UserError where a larger angle from the axis lands nearer to the picture's centre."""
    corners = (_border(height, width) - pinhole[:2, 2]) / pinhole.diagonal()[:2]
    radius = torch.linspace(0, float(corners.norm(dim=-1).max()), 512, dtype=torch.float64)
    radial = replace(distortion, p1=0.0, p2=0.0)
    moved = radial.distort(torch.stack([radius, torch.zeros_like(radius)], dim=-1))[:, 0]
    if bool((moved.diff() <= 0).any()):
        raise UserError(
            f"{source}: {distortion} folds the picture over itself inside the image; check the"
            " coefficients"
        )


def _border(height: int, width: int) -> Float[Tensor, "n 2"]:
    """Points along the outer edge of an image, in pixels."""
    across = torch.linspace(0, width, 65, dtype=torch.float64)
    down = torch.linspace(0, height, 65, dtype=torch.float64)
    sides = [
        torch.stack([across, torch.zeros_like(across)], dim=-1),
        torch.stack([across, torch.full_like(across, height)], dim=-1),
        torch.stack([torch.zeros_like(down), down], dim=-1),
        torch.stack([torch.full_like(down, width), down], dim=-1),
    ]
    return torch.cat(sides)
