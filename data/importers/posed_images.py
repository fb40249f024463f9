"""Images with known cameras on disk become frames and cameras of one size; all importers meet here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.importers.distortion import NO_DISTORTION, Distortion, undistort
from data.importers.images import WHITE, Color, read_image, read_mask, resize_and_crop

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done and the steps in all."""


@dataclass(frozen=True)
class PosedImage:
    """An image file and the camera that took it.

    world_to_camera: rigid, OpenCV axes, float64.
    intrinsics: in pixels of `height` x `width`, float64.
    distortion: of the lens; the loaded frame has none.
    mask: an image file that is white where the image counts.
    """

    path: Path
    world_to_camera: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    height: int
    width: int
    distortion: Distortion = NO_DISTORTION
    mask: Path | None = None


def load_posed_images(
    images: Sequence[PosedImage],
    height: int,
    width: int,
    *,
    background: Color = WHITE,
    apply_masks: bool = False,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "t 3 h w"], Cameras]:
    """Frames in [0, 1] and float64 cameras, undistorted, resized and centre-cropped to one size.

    background: colour behind transparent pixels and, with `apply_masks`, outside the masks.
    Raises UserError that names the file where an image is missing, damaged, or of another shape than
    its camera.
    """
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(images)} images are missing; the first is {missing[0]}"
        )
    frames = torch.empty(len(images), 3, height, width)
    intrinsics = []
    for i, image in enumerate(images):
        frames[i], matrix = load_posed_image(
            image, height, width, background=background, apply_masks=apply_masks
        )
        intrinsics.append(matrix)
        if progress is not None:
            progress("read images", i + 1, len(images))
    world_to_camera = torch.stack([image.world_to_camera for image in images])
    return frames, Cameras(world_to_camera, torch.stack(intrinsics), height, width)


def sparse_depth(
    cameras: Cameras, points: list[Float[Tensor, "_ 3"]]
) -> Float[Tensor, "view h w"] | None:
    """Z-depth of each view's own world points at the pixels where they fall, the nearest where several
    meet, 0 elsewhere; None where no view sees a point."""
    height, width = cameras.height, cameras.width
    depth = torch.zeros(cameras.num_views, height * width, dtype=torch.float64)
    for view in range(cameras.num_views):
        pixels, z = cameras.select(view).project(points[view].to(cameras.world_to_camera))
        column, row = pixels[0].floor().unbind(-1)
        seen = (z[0] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = (row[seen] * width + column[seen]).long()
        depth[view].scatter_reduce_(0, index, z[0, seen], "amin", include_self=False)
    return depth.unflatten(1, (height, width)).float() if bool(depth.any()) else None


def nearest_rigid(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The transforms with their rotations made exactly orthonormal: files round their numbers."""
    left, _, right = torch.linalg.svd(transform[..., :3, :3])
    rigid = transform.clone()
    rigid[..., :3, :3] = left @ right
    return rigid


def spread(count: int, most: int | None, source: str) -> list[int]:
    """At most `most` of `count` indices, evenly spread from the first to the last; None takes all."""
    if most is None or most >= count:
        return list(range(count))
    if most < 1:
        raise UserError(f"{source}: at most {most} frames were asked for, expected at least 1")
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def load_posed_image(
    image: PosedImage,
    height: int,
    width: int,
    *,
    background: Color = WHITE,
    apply_masks: bool = False,
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 3"]]:
    """One image and its intrinsics, as `load_posed_images` does with each."""
    pixels, upright = _read_as_the_camera_saw_it(image, background)
    if apply_masks and image.mask is not None:
        mask = read_mask(image.mask, upright=upright)
        if mask.shape != pixels.shape[-2:]:
            raise UserError(
                f"{image.mask}: the mask is {_size(mask)} but its image is {_size(pixels)}"
            )
        pixels = pixels * mask + torch.tensor(background)[:, None, None] * (1 - mask)
    to_file = torch.diag(
        torch.tensor(
            [pixels.shape[-1] / image.width, pixels.shape[-2] / image.height, 1.0],
            dtype=torch.float64,
        )
    )
    intrinsics = to_file @ image.intrinsics
    if not image.distortion.is_none:
        pixels, to_smaller = _shrink_for(pixels, height, width)
        pixels, intrinsics = undistort(
            pixels, to_smaller @ intrinsics, image.distortion, str(image.path)
        )
    frame, to_frame = resize_and_crop(pixels, height, width)
    return frame, to_frame @ intrinsics


def _shrink_for(
    pixels: Float[Tensor, "3 h w"], height: int, width: int
) -> tuple[Float[Tensor, "3 small_h small_w"], Float[Tensor, "3 3"]]:
    """The picture at no more than about twice the size that the frame will have: undistorting a large
    photo takes gigabytes and seconds, of which nothing is left to see."""
    scale = 2 * max(height / pixels.shape[-2], width / pixels.shape[-1])
    if scale >= 1:
        return pixels, torch.eye(3, dtype=torch.float64)
    small = [math.ceil(side * scale) for side in pixels.shape[-2:]]
    return resize_and_crop(pixels, *small)


def _read_as_the_camera_saw_it(
    image: PosedImage, background: Color
) -> tuple[Float[Tensor, "3 h w"], bool]:
    """The image in the orientation that its camera is stated for, and whether EXIF turned it.

    COLMAP and most that write transforms.json look at the pixels as they are stored; others
    have turned them. The stated size tells; where both fit, the pixels stay as stored.
    """
    sizes = []
    for upright in (False, True):
        pixels = read_image(image.path, background=background, upright=upright)
        if _same_shape(pixels.shape[-2], pixels.shape[-1], image.height, image.width):
            return pixels, upright
        sizes.append(_size(pixels))
    raise UserError(
        f"{image.path}: the image is {' or '.join(dict.fromkeys(sizes))} but its camera is stated"
        f" for {image.height}x{image.width} (height x width); these are not the same picture"
    )


def _same_shape(height: int, width: int, stated_height: int, stated_width: int) -> bool:
    """Whether two sizes have the same proportions, but for rounding each side to whole pixels."""
    return abs(width * stated_height - height * stated_width) <= stated_height + stated_width


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-2]}x{pixels.shape[-1]}"
