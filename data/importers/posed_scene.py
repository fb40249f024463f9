"""A scene of a data set: all its cameras at once, its frames when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from data.importers.images import resize_and_crop
from data.left_out import LeftOut, Reason


@dataclass(frozen=True)
class FrameFit:
    """The size that frames get. enlarge: frames that are smaller may be made larger; else they are left out."""

    height: int
    width: int
    enlarge: bool = False

    def check(self, height: int, width: int, source: str) -> None:
        """Raises LeftOut where a frame of this size is too small."""
        if not self.enlarge and (height < self.height or width < self.width):
            raise LeftOut(
                Reason.SMALL,
                f"{source}: frames are {height}x{width}, smaller than {self.height}x{self.width}",
            )


Frames = tuple[Float[Tensor, "view 3 h w"], Float[Tensor, "view 3 3"]]
"""Frames in [0, 1] and their intrinsics in pixels, float64."""

FrameReader = Callable[[Sequence[int], FrameFit], Frames]
"""Reads the frames of these numbers, in their order; raises UserError, or LeftOut with a reason."""


@dataclass(frozen=True)
class PosedScene:
    """Cameras of a video's frames in their order, in any unit of length, and the way to its frames.

    name: unique in its set. world_to_camera: rigid, OpenCV axes, float64.
    """

    name: str
    world_to_camera: Float[Tensor, "t 4 4"]
    read: FrameReader


@dataclass(frozen=True)
class SceneRef:
    """A scene that has been found but not opened. place: where, if the name doesn't tell."""

    name: str
    place: str = ""


@runtime_checkable
class SceneSet(Protocol):
    """Scenes of one kind on disk. Travels to other processes, so it holds paths and settings only."""

    def list_scenes(self) -> list[SceneRef]:
        """All scenes, in an order that depends on the files' names alone; UserError where there is none."""

    def open(self, scene: SceneRef, fit: FrameFit) -> PosedScene:
        """One of them; raises UserError, or LeftOut with a reason."""


def fit_pictures(
    views: Sequence[int],
    pictures: Callable[[list[int]], Iterable[Float[Tensor, "3 _h _w"]]],
    shares: Float[Tensor, "t 3 3"],
    fit: FrameFit,
    source: str,
) -> Frames:
    """The frames of `views`, no two the same, in their order at one size, with the intrinsics that they have there.

    pictures: gives the frames of ascending numbers, one after another; only one is kept at its own size.
    shares: intrinsics of all frames of the scene, in shares of a picture's width and height.
    """
    frames = torch.empty(len(views), 3, fit.height, fit.width)
    intrinsics = torch.empty(len(views), 3, 3, dtype=torch.float64)
    places = sorted(range(len(views)), key=views.__getitem__)
    ascending = [views[place] for place in places]
    for place, picture in zip(places, pictures(ascending), strict=True):
        height, width = picture.shape[-2:]
        fit.check(height, width, source)
        frames[place], to_frame = resize_and_crop(picture, fit.height, fit.width)
        sides = torch.tensor([[width], [height], [1]], dtype=torch.float64)
        intrinsics[place] = to_frame @ (shares[views[place]] * sides)
    return frames, intrinsics
