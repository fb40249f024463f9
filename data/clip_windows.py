"""Runs of path frames that a video model learns from: forwards or backwards, at several strides, mirrored.

A window is the unit in which latents are precomputed, since an autoencoder codes a run of frames as a
whole: the same frames backwards, mirrored or at another stride have other latents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pydantic import Field, field_validator

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from data.clips import Clip, scene_scale
from data.shard_samples import ShardClip
from data.views import check_frame_count


@dataclass(frozen=True, order=True)
class Window:
    """Path frames `first`, `first` + `step`, ... of a clip; a negative step runs backwards."""

    first: int
    step: int
    mirrored: bool = False

    @property
    def key(self) -> str:
        """A name for tensors that belong to the window."""
        return f"from{self.first}_step{self.step}" + ("_mirrored" if self.mirrored else "")

    @staticmethod
    def from_key(key: str) -> Window | None:
        """The window of that name; None where it is no window's."""
        found = re.fullmatch(r"from(\d+)_step(-?[1-9]\d*)(_mirrored)?", key)
        return found and Window(int(found[1]), int(found[2]), found[3] is not None)

    def views(self, num_frames: int) -> list[int]:
        """The numbers of its frames."""
        return [self.first + self.step * frame for frame in range(num_frames)]


class WindowConfig(Config):
    """Which windows of a clip are used. Strides and reversal multiply the paths; ours."""

    num_frames: int = Field(17, description="frames of a window: 8k+1")
    strides: tuple[int, ...] = Field(
        (1,), min_length=1, description="path frames from one frame of a window to the next"
    )
    backwards: bool = Field(True, description="half of the windows run backwards")
    mirrored: bool = Field(True, description="half of them are flipped left to right")

    @field_validator("num_frames")
    @classmethod
    def _frames_round_trip(cls, value: int) -> int:
        try:
            return check_frame_count(value, "num_frames")
        except UserError as error:
            raise ValueError(str(error)) from error

    @field_validator("strides")
    @classmethod
    def _strides_go_on(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"strides are {value}; expected each at least 1")
        return value

    def draw(self, num_path_frames: int, generator: torch.Generator) -> Window:
        """A random window of a path of so many frames; raises UserError where it is too short."""
        strides = self.possible_strides(num_path_frames)
        stride = strides[_below(len(strides), generator)]
        span = (self.num_frames - 1) * stride
        first = _below(num_path_frames - span, generator)
        backwards = self.backwards and _below(2, generator) == 1
        mirrored = self.mirrored and _below(2, generator) == 1
        return (
            Window(first + span, -stride, mirrored)
            if backwards
            else Window(first, stride, mirrored)
        )

    def spread(self, num_path_frames: int, hop: int) -> list[Window]:
        """All windows of a path that start (or, backwards, end) at every `hop`-th frame."""
        windows = []
        for stride in self.possible_strides(num_path_frames):
            span = (self.num_frames - 1) * stride
            for first in range(0, num_path_frames - span, hop):
                ways = [Window(first, stride)]
                ways += [Window(first + span, -stride)] if self.backwards else []
                windows += ways
                windows += [Window(w.first, w.step, True) for w in ways] if self.mirrored else []
        return windows

    def among(self, windows: Iterable[Window]) -> list[Window]:
        """Those of the windows that this config allows, in order."""
        return sorted(
            window
            for window in windows
            if abs(window.step) in self.strides
            and (self.backwards or window.step > 0)
            and (self.mirrored or not window.mirrored)
        )

    def possible_strides(self, num_path_frames: int) -> list[int]:
        """The strides at which a window fits into the path, ascending."""
        gaps = self.num_frames - 1
        possible = sorted({s for s in self.strides if gaps * s < num_path_frames})
        if not possible:
            shortest = min(self.strides)
            raise UserError(
                f"a clip has {num_path_frames} path frames; {self.num_frames} frames at stride"
                f" {shortest} need {gaps * shortest + 1}: use fewer frames or a smaller stride, or"
                " prepare longer clips"
            )
        return possible


def load_window(clip: ShardClip, window: Window, num_frames: int) -> Clip:
    """The window's frames with cameras relative to its first; no depth. `scale` is in source units."""
    views = window.views(num_frames)
    loaded = clip.load(views, depth=False)
    if window.first:
        loaded = loaded.normalised(window_scale(clip, window))
    return loaded.mirrored() if window.mirrored else loaded


def window_cameras(clip: ShardClip, window: Window, num_frames: int, scale: float) -> Cameras:
    """The cameras of `load_window` without its frames; `scale` is its `window_scale`."""
    cameras = clip.cameras.select(window.views(num_frames))
    if window.first:
        cameras = cameras.to(torch.float64).relative_to(0).rescaled(scale).to(torch.float32)
    return cameras.mirrored() if window.mirrored else cameras


def window_scale(clip: ShardClip, window: Window) -> float:
    """Stored units per unit of the window: its first frame's median depth, or 1 where that isn't stored."""
    if not window.first or not clip.has_depth:
        return 1.0
    first = clip.load([window.first], depth=True)
    return scene_scale(first.cameras, first.depth)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
