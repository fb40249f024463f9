"""A clip: frames of one static scene with the cameras that took them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras

TYPICAL_SPAN = 0.4
"""Camera travel, in median scene depths, that is assumed when a capture tells no depth. Ours."""


@dataclass(frozen=True)
class Clip:
    """Frames with cameras, relative to the first frame, in scene units.

    frames: `[t 3 h w]` in [0, 1].
    cameras: one view a frame, the first of them the identity, translations divided by `scale`.
    source: where it came from, unique within a shard set ("procedural/000123").
    num_path_frames: the first so many frames follow the camera path in order; the rest are extra views
        taken beside and past it, for supervision and evaluation.
    depth: z-depth `[t h w]` in scene units; 0 where unknown.
    scale: source units per scene unit, positive.
    """

    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras
    source: str
    num_path_frames: int
    caption: str = ""
    depth: Float[Tensor, "t h w"] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        num_frames, _, height, width = self.frames.shape
        if num_frames != self.cameras.num_views:
            raise UserError(
                f"{self.source}: {num_frames} frames but {self.cameras.num_views} cameras"
            )
        if (height, width) != (self.cameras.height, self.cameras.width):
            raise UserError(
                f"{self.source}: frames are {height}x{width} but the cameras say"
                f" {self.cameras.height}x{self.cameras.width}"
            )
        if not 1 <= self.num_path_frames <= num_frames:
            raise UserError(
                f"{self.source}: num_path_frames is {self.num_path_frames}, expected 1 to {num_frames}"
            )

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    def select(self, views: Sequence[int]) -> Clip:
        """The given frames, in the given order, all of them counted as path frames."""
        index = torch.as_tensor(views, dtype=torch.long)
        return replace(
            self,
            frames=self.frames[index],
            cameras=self.cameras.select(index),
            num_path_frames=len(index),
            depth=None if self.depth is None else self.depth[index],
        )

    def mirrored(self) -> Clip:
        """The clip as seen in a mirror: frames flipped left to right, the world's x axis with them."""
        return replace(
            self,
            frames=self.frames.flip(-1),
            cameras=self.cameras.mirrored(),
            depth=None if self.depth is None else self.depth.flip(-1),
        )

    def normalised(self, scale: float | None = None) -> Clip:
        """The same clip relative to its first frame, translations and depth divided by a scene scale.

        Without `scale` it is `scene_scale(...)` of the first frame's depth, or of all frames' where the
        first has none. The kept scale is the product of old and new.
        Captures can lie far from their origin, so this is done in float64; the result has the
        frames' dtype.
        """
        cameras = self.cameras.to(torch.float64)
        if scale is None:
            depth = self.depth
            if depth is not None and bool((depth[0] > 0).any()):
                depth = depth[0]
            scale = scene_scale(cameras, depth)
        return replace(
            self,
            cameras=cameras.relative_to(0).rescaled(scale).to(self.frames.dtype),
            depth=None if self.depth is None else self.depth / scale,
            scale=self.scale * scale,
        )


def scene_scale(cameras: Cameras, first_depth: Float[Tensor, "*shape"] | None = None) -> float:
    """Source units per scene unit, so that the first frame's median depth is about 1.

    With depths of the first frame (a depth map with 0 where unknown, or those of sparse points) it is
    their median. Without, it takes the cameras' largest distance from the first to be `TYPICAL_SPAN`;
    cameras that do not move give 1. The paper says only "a scene scale"; both rules are ours.
    """
    if first_depth is not None:
        known = first_depth[torch.isfinite(first_depth) & (first_depth > 0)]
        if len(known):
            return float(known.median())
    positions = cameras.positions
    span = float((positions - positions[..., :1, :]).norm(dim=-1).max())
    return span / TYPICAL_SPAN if span > 1e-9 else 1.0
