"""Pixels of some frames, looked up in the others: what direct alignment compares.

Legend: t frames, k keyframes, n pixels of each, p pairs of a keyframe with another frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from data.cameras import Cameras, invert_rigid, pixel_centres

BORDER_PX = 0.5
"""Points nearer to the border of a frame are not compared: there the slopes are one-sided."""
LEAST_Z = 1e-3
"""Points at or behind the camera plane are looked up as if this far before it, and not compared."""


@dataclass(frozen=True)
class AlignmentState:
    """What is solved for.

    world_to_camera: rigid, float64; the first is the identity.
    inverse_depth: of the chosen pixels of each keyframe, one over z.
    gain, bias: what a frame's values are multiplied by, and what is added, to have the first one's exposure.
    """

    world_to_camera: Float[Tensor, "t 4 4"]
    inverse_depth: Float[Tensor, "k n"]
    gain: Float[Tensor, " t"]
    bias: Float[Tensor, " t"]


@dataclass(frozen=True)
class LookUp:
    """Where the pixels of keyframes fall in other frames, and what stands there.

    rotation, translation: from the keyframe's axes to the other frame's.
    points: in the other frame's axes, times the inverse depth. z: theirs, positive.
    places: pixel positions. seen: whether they are in the frame and before its camera.
    values: what stands there. slopes: how that changes per pixel to the right and down.
    """

    rotation: Float[Tensor, "p 3 3"]
    translation: Float[Tensor, "p 3"]
    points: Float[Tensor, "p n 3"]
    z: Float[Tensor, "p n"]
    places: Float[Tensor, "p n 2"]
    seen: Bool[Tensor, "p n"]
    values: Float[Tensor, "p 3 n"]
    slopes: Float[Tensor, "p 2 3 n"]


class PixelPairs:
    """The chosen pixels of keyframes, and the frames that they are looked up in.

    frames: of working size. cameras: only their intrinsics are used.
    gap: keyframes are paired with frames at most so many places away.
    num_pixels: so many of each keyframe are chosen, where its picture changes most compared with its
        surroundings.
    """

    def __init__(
        self,
        frames: Float[Tensor, "t 3 h w"],
        cameras: Cameras,
        keyframes: list[int],
        gap: int,
        num_pixels: int,
    ) -> None:
        num_frames, _, self.height, self.width = frames.shape
        self.num_frames, self.keyframes = num_frames, keyframes
        right, down = _slopes(frames)
        self.chosen = _choose_pixels(right, down, keyframes, num_pixels)
        pairs = [
            (row, other)
            for row, key in enumerate(keyframes)
            for other in range(num_frames)
            if other != key and abs(other - key) <= gap
        ]
        self.rows = torch.tensor([row for row, _ in pairs])
        self.others = torch.tensor([other for _, other in pairs])
        self.keys = torch.tensor(keyframes)[self.rows]
        centres = pixel_centres(self.height, self.width).flatten(0, 1)
        inverse = torch.linalg.inv(cameras.intrinsics.double())
        self.positions = centres[self.chosen][self.rows][..., :2].float()
        rays = centres[self.chosen] @ inverse[keyframes].mT
        self.rays = rays.float()[self.rows]
        matrices = cameras.intrinsics.float()[self.others]
        self.focal = matrices[:, [0, 1], [0, 1]][:, None]
        self.centre = matrices[:, :2, 2][:, None]
        values = frames.flatten(2)[keyframes]
        self.values = values.gather(2, self.chosen[:, None].expand(-1, 3, -1))[self.rows]
        self._stack = torch.cat([frames, right, down], dim=1)[self.others]

    @property
    def num_pixels(self) -> int:
        return self.chosen.shape[1]

    def look_up(self, state: AlignmentState) -> LookUp:
        """The keyframes' pixels in the frames that they are paired with."""
        to_world = invert_rigid(state.world_to_camera)
        relative = state.world_to_camera[self.others] @ to_world[self.keys]
        rotation, translation = relative[:, :3, :3].float(), relative[:, :3, 3].float()
        inverse = state.inverse_depth[self.rows][..., None]
        points = self.rays @ rotation.mT + inverse * translation[:, None]
        z = points[..., 2].clamp(min=LEAST_Z)
        places = self.focal * points[..., :2] / z[..., None] + self.centre
        size = places.new_tensor([self.width, self.height])
        found = F.grid_sample(
            self._stack,
            (2 * places / size - 1)[:, :, None],
            padding_mode="border",
            align_corners=False,
        )[..., 0]
        inside = ((places > BORDER_PX) & (places < size - BORDER_PX)).all(-1)
        return LookUp(
            rotation=rotation,
            translation=translation,
            points=points,
            z=z,
            places=places,
            seen=inside & (points[..., 2] > LEAST_Z),
            values=found[:, :3],
            slopes=found[:, 3:].unflatten(1, (2, 3)),
        )

    def residuals(self, look: LookUp, state: AlignmentState) -> Float[Tensor, "p 3 n"]:
        """By how much the other frames' values differ from the keyframes', at the first frame's exposure."""
        return exposed(look.values, state, self.others) - exposed(self.values, state, self.keys)

    def dense(self, values: Float[Tensor, "k n"], elsewhere: float) -> Float[Tensor, "k h w"]:
        """Values of the chosen pixels, where they are."""
        flat = values.new_full((len(values), self.height * self.width), elsewhere)
        return flat.scatter(1, self.chosen, values).unflatten(1, (self.height, self.width))

    def gather(self, maps: Float[Tensor, "k h w"]) -> Float[Tensor, "k n"]:
        """What maps of the keyframes hold at the chosen pixels."""
        return maps.flatten(1).gather(1, self.chosen)


def exposed(
    values: Float[Tensor, "p 3 n"], state: AlignmentState, frames: Int[Tensor, " p"]
) -> Float[Tensor, "p 3 n"]:
    """Values of frames at the first frame's exposure."""
    return state.gain[frames][:, None, None] * values + state.bias[frames][:, None, None]


def _slopes(
    frames: Float[Tensor, "t 3 h w"],
) -> tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "t 3 h w"]]:
    """Central differences per pixel, to the right and down."""
    padded = F.pad(frames, [1, 1, 1, 1], mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    along = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return across, along


NEAR_PX = 9
"""Side of the square around a pixel that it is compared with when pixels are chosen."""


def _choose_pixels(
    right: Float[Tensor, "t 3 h w"],
    down: Float[Tensor, "t 3 h w"],
    keyframes: list[int],
    most: int,
) -> Int[Tensor, "k n"]:
    """Flat indices of pixels with steep slopes for where they are, so that the whole picture has its share."""
    height, width = right.shape[-2:]
    steepness = (right.square() + down.square()).sum(dim=1)[keyframes].sqrt()
    padded = F.pad(steepness[:, None], [NEAR_PX // 2] * 4, mode="replicate")
    around = F.avg_pool2d(padded, NEAR_PX, stride=1)[:, 0]
    overall = steepness.mean(dim=(1, 2), keepdim=True)
    rank = (steepness / (around + 0.25 * overall + 1e-6)).flatten(1)
    count = min(most, height * width)
    order = rank.argsort(dim=1, descending=True, stable=True)
    return order[:, :count].sort(dim=1).values
