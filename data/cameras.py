"""Pinhole cameras: the one home of camera conventions.

Axes are OpenCV's: x right, y down, z forward. `world_to_camera` maps homogeneous world points to camera
points. Intrinsics are in pixels of the stated height and width; pixel centres sit at +0.5.

Legend: v views, h height, w width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError

ORTHONORMAL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Cameras:
    """Views of one scene (or a batch of scenes) that share one image size.

    world_to_camera: rigid transforms, `[*batch v 4 4]`, translations in scene units.
    intrinsics: `[*batch v 3 3]`, pixels.
    """

    world_to_camera: Float[Tensor, "*batch view 4 4"]
    intrinsics: Float[Tensor, "*batch view 3 3"]
    height: int
    width: int

    @staticmethod
    def from_camera_to_world(
        camera_to_world: Float[Tensor, "*batch view 4 4"],
        intrinsics: Float[Tensor, "*batch view 3 3"],
        height: int,
        width: int,
    ) -> Cameras:
        """Cameras from camera-to-world transforms in OpenCV axes."""
        return Cameras(invert_rigid(camera_to_world), intrinsics, height, width)

    @property
    def num_views(self) -> int:
        return self.world_to_camera.shape[-3]

    @property
    def camera_to_world(self) -> Float[Tensor, "*batch view 4 4"]:
        return invert_rigid(self.world_to_camera)

    @property
    def positions(self) -> Float[Tensor, "*batch view 3"]:
        """Camera centres in world axes, scene units."""
        return self.camera_to_world[..., :3, 3]

    def __len__(self) -> int:
        return self.num_views

    def select(self, views: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The given views, in the given order; an int keeps the view axis (length 1)."""
        if not isinstance(views, slice):
            views = torch.as_tensor(views, device=self.world_to_camera.device)
            assert views.dtype != torch.bool, "views are picked by index, not by mask"
            views = views.long().reshape(-1)
        return replace(
            self,
            world_to_camera=self.world_to_camera[..., views, :, :],
            intrinsics=self.intrinsics[..., views, :, :],
        )

    def to(self, *args: Any) -> Cameras:
        """A copy on another device or in another dtype, as `Tensor.to`."""
        return replace(
            self,
            world_to_camera=self.world_to_camera.to(*args),
            intrinsics=self.intrinsics.to(*args),
        )

    def resize(self, height: int, width: int) -> Cameras:
        """The same views with images resized to `height` x `width`."""
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(
            self, intrinsics=self.intrinsics * scale[:, None], height=height, width=width
        )

    def crop(self, top: int, left: int, height: int, width: int) -> Cameras:
        """The same views with images cropped to the box that starts at pixel (`top`, `left`)."""
        intrinsics = self.intrinsics.clone()
        intrinsics[..., 0, 2] -= left
        intrinsics[..., 1, 2] -= top
        return replace(self, intrinsics=intrinsics, height=height, width=width)

    def relative_to(self, view: int = 0) -> Cameras:
        """The same views in the axes of camera `view`, whose own transform becomes the identity."""
        world_to_camera = self.world_to_camera @ self.select(view).camera_to_world
        identity = torch.eye(4, dtype=world_to_camera.dtype, device=world_to_camera.device)
        world_to_camera[..., view, :, :] = identity
        return replace(self, world_to_camera=world_to_camera)

    def rescaled(self, scale: float) -> Cameras:
        """The same views with translations divided by `scale` (source units per scene unit)."""
        if not (scale > 0 and math.isfinite(scale)):
            raise UserError(f"scene scale must be positive and finite, found {scale}")
        world_to_camera = self.world_to_camera.clone()
        world_to_camera[..., :3, 3] /= scale
        return replace(self, world_to_camera=world_to_camera)

    def mirrored(self) -> Cameras:
        """The same views as seen in a mirror: images flipped left to right, the world's x axis with them."""
        flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])).to(self.world_to_camera)
        intrinsics = self.intrinsics.clone()
        intrinsics[..., 0, 2] = self.width - intrinsics[..., 0, 2]
        world_to_camera = flip @ self.world_to_camera @ flip
        return replace(self, world_to_camera=world_to_camera, intrinsics=intrinsics)

    def rays(
        self,
    ) -> tuple[Float[Tensor, "*batch view 3"], Float[Tensor, "*batch view h w 3"]]:
        """Ray origins (one a view) and unit directions (one a pixel centre), in world axes."""
        pixels = pixel_centres(self.height, self.width).to(self.intrinsics)
        # One 3x3 matrix takes (u, v, 1) to a world direction, so this is one matrix product a view.
        to_world = self.camera_to_world[..., :3, :3] @ torch.linalg.inv(self.intrinsics)
        directions = torch.einsum("...ij,hwj->...hwi", to_world, pixels)
        return self.positions, torch.nn.functional.normalize(directions, dim=-1)

    def plucker(self) -> Float[Tensor, "*batch view 6 h w"]:
        """One Plücker ray per pixel centre: moment (3), then unit direction (3), in world axes.

        Moments are in scene units. Wonderland, sec. 3.2; we leave out the translation that the paper
        prints inside the direction, since that is not a direction.
        """
        # (o x d, d) is linear in the unnormalised d = M (u, v, 1): one 6x3 matrix product a view.
        to_world = self.camera_to_world[..., :3, :3] @ torch.linalg.inv(self.intrinsics)
        origin_cross = skew(self.positions) @ to_world
        pixels = pixel_centres(self.height, self.width).to(self.intrinsics).flatten(0, 1)
        rays = torch.cat([origin_cross, to_world], dim=-2) @ pixels.mT
        # Not `norm(dim=-2)`: on the CPU that runs 30 times slower.
        rays = rays / rays[..., 3:, :].square().sum(dim=-2, keepdim=True).sqrt()
        return rays.unflatten(-1, (self.height, self.width))

    def project(
        self, points: Float[Tensor, "*batch n 3"]
    ) -> tuple[Float[Tensor, "*batch view n 2"], Float[Tensor, "*batch view n"]]:
        """Pixel positions and depths (camera z, scene units) of world points in every view.

        A point behind a camera has a negative depth, and its pixel position means nothing.
        """
        rotation, translation = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3]
        local = torch.einsum("...vij,...nj->...vni", rotation, points) + translation[..., None, :]
        image = torch.einsum("...vij,...vnj->...vni", self.intrinsics, local)
        return image[..., :2] / image[..., 2:], local[..., 2]

    def validate(self, source: str) -> Cameras:
        """These cameras, once checked; raises UserError that names `source` and the first bad view."""
        if self.height < 1 or self.width < 1:
            raise UserError(
                f"{source}: images are {self.height}x{self.width}, expected at least 1x1"
            )
        flat = self.world_to_camera.reshape(-1, 4, 4).double().cpu()
        intrinsics = self.intrinsics.reshape(-1, 3, 3).double().cpu()
        if len(flat) != len(intrinsics):
            raise UserError(f"{source}: {len(flat)} camera poses but {len(intrinsics)} intrinsics")
        for view, (transform, matrix) in enumerate(zip(flat, intrinsics, strict=True)):
            where = f"{source}: camera {view}"
            if not (torch.isfinite(transform).all() and torch.isfinite(matrix).all()):
                raise UserError(f"{where} has NaN or infinite entries")
            rotation = transform[:3, :3]
            error = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max().item()
            if error > ORTHONORMAL_TOLERANCE:
                raise UserError(
                    f"{where} has a rotation that is not orthonormal (off by {error:.2g}); expected a"
                    " rigid transform without scale or shear"
                )
            if torch.linalg.det(rotation) < 0:
                raise UserError(
                    f"{where} has a mirrored rotation (determinant -1); one axis is flipped: check"
                    " the file's axis convention"
                )
            if transform[3].tolist() != [0, 0, 0, 1]:
                raise UserError(
                    f"{where} has a transform whose last row is {transform[3].tolist()}; expected"
                    " [0, 0, 0, 1]"
                )
            if matrix[2].tolist() != [0, 0, 1]:
                raise UserError(
                    f"{where} has intrinsics whose last row is {matrix[2].tolist()}; expected [0, 0, 1]"
                )
            if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
                raise UserError(
                    f"{where} has focal length ({matrix[0, 0]:g}, {matrix[1, 1]:g}) px; expected both > 0"
                )
        return self


def stack_cameras(batch: Sequence[Cameras]) -> Cameras:
    """One Cameras with a new leading batch axis; all must share image size and number of views."""
    first = batch[0]
    assert all((c.height, c.width) == (first.height, first.width) for c in batch)
    return Cameras(
        torch.stack([c.world_to_camera for c in batch]),
        torch.stack([c.intrinsics for c in batch]),
        first.height,
        first.width,
    )


def concatenate_cameras(parts: Sequence[Cameras]) -> Cameras:
    """All views of `parts`, one after another; all must share image size and batch shape."""
    first = parts[0]
    assert all((c.height, c.width) == (first.height, first.width) for c in parts)
    return Cameras(
        torch.cat([c.world_to_camera for c in parts], dim=-3),
        torch.cat([c.intrinsics for c in parts], dim=-3),
        first.height,
        first.width,
    )


def invert_rigid(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The inverse of rigid 4x4 transforms, by transposition: exact where a general inverse is not."""
    rotation = transform[..., :3, :3].mT
    inverse = torch.zeros_like(transform)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ transform[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def skew(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrices that take x to the cross product of `vectors` with x."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def pixel_centres(height: int, width: int) -> Float[Tensor, "h w 3"]:
    """Homogeneous pixel centres (u, v, 1), in pixels."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    return torch.stack([u, v, torch.ones_like(u)], dim=-1)


def intrinsics_from_fov(vertical_fov_deg: float, height: int, width: int) -> Float[Tensor, "3 3"]:
    """Square-pixel intrinsics [px] with the principal point in the middle."""
    if not 0 < vertical_fov_deg < 180:
        raise UserError(f"field of view is {vertical_fov_deg} deg, expected between 0 and 180")
    focal_px = 0.5 * height / math.tan(math.radians(vertical_fov_deg) / 2)
    return torch.tensor([[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]])
