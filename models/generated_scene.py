"""What an image and a camera path become, finished and in the making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from data.clips import Clip
from data.importers.photo import Photo
from models.gaussians import Gaussians, concatenate_gaussians
from models.video.clip_chain import clip_cameras, median_depth, place_clip, redirect_path
from models.video.clip_poses import ClipPoses


@dataclass(frozen=True)
class GeneratedScene:
    """What one image became. Tensors are on the device where the models ran.

    video: the generated frames, one a camera.
    cameras: the path, relative to the image's camera, in scene units; where poses were estimated from the frames, as
        they were found.
    gaussians: the scene, in the same axes and unit.
    latents: of each clip that the path was cut into; clips share a frame with the next.
    clips, units: each clip's frames, and how many scene units make one of its own (see `models.video.clip_chain`).
    seconds: of each stage, for all scenes that were made at once.
    notes: what a person should know, a sentence each.
    poses: what each clip's frames say of its cameras, as plain JSON; empty where nobody looked.
    """

    source: str
    video: Float[Tensor, "t 3 h w"]
    cameras: Cameras
    gaussians: Gaussians
    latents: tuple[Float[Tensor, "c p h_ w_"], ...]
    clips: tuple[range, ...]
    units: tuple[float, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    poses: tuple[Mapping[str, Any], ...] = ()

    def clip(self) -> Clip:
        """The generated frames with their cameras."""
        return Clip(self.video, self.cameras, self.source, len(self.video))


class SceneDraft:
    """A scene in the making, clip by clip."""

    def __init__(self, photo: Photo, path: Cameras) -> None:
        self.photo, self.path = photo, path
        self.last_frame = photo.frame
        self.unit = 1.0
        self.notes: list[str] = []
        self.frames: list[Tensor] = []
        self.latents: list[Tensor] = []
        self.clips: list[range] = []
        self.units: list[float] = []
        self.gaussians: list[Gaussians] = []
        self.poses: list[Mapping[str, Any]] = []

    def clip_cameras(self, views: range) -> Cameras:
        """The cameras of the clip to come or just drawn, in its own axes and unit."""
        return clip_cameras(self.path, views, self.unit)

    def follow(self, views: range, found: ClipPoses) -> None:
        """Takes note of what a clip's frames say of its cameras, and goes on from where they are."""
        self.notes.append(f"frames {views[0]} to {views[-1]}: {found.note}")
        used = "commanded" if found.cameras is None else "estimated"
        self.poses.append({"first": views[0], "last": views[-1], "used": used, **found.numbers})
        if found.cameras is not None:
            self.path = redirect_path(self.path, views, found.cameras, self.unit)

    def add(self, views: range, latents: Tensor, frames: Tensor, gaussians: Gaussians) -> None:
        self.gaussians.append(place_clip(gaussians, self.path.select(views[0]), self.unit))
        self.frames.append(frames if not self.frames else frames[1:])
        self.latents.append(latents)
        self.clips.append(views)
        self.units.append(self.unit)
        self.last_frame = frames[-1]

    def measure_unit(self, view: int) -> None:
        """Sets the unit of the clip that starts at `view`."""
        found = median_depth(concatenate_gaussians(self.gaussians), self.path.select(view))
        if found is None:
            self.notes.append(
                f"at frame {view} the scene so far fills too little of the picture to measure its depth: the"
                f" next clip keeps the unit of the one before, {self.unit:.3g}"
            )
        else:
            self.unit = found

    def scene(self, seconds: dict[str, float], notes: Iterator[str]) -> GeneratedScene:
        return GeneratedScene(
            source=self.photo.source,
            video=torch.cat(self.frames),
            cameras=self.path,
            gaussians=concatenate_gaussians(self.gaussians),
            latents=tuple(self.latents),
            clips=tuple(self.clips),
            units=tuple(self.units),
            seconds=dict(seconds),
            notes=(*self.photo.notes, *notes, *self.notes),
            poses=tuple(self.poses),
        )
