"""RealEstate10K and ACID: a camera file for each scene, and its frames as a video or as images.

    CAMERAS/KEY.txt                a line with the video's address, then one row a frame (`path_text`)
    MEDIA/KEY/52553000.png         frames named by their timestamps [microseconds], or
    MEDIA/KEY.mp4                  a video of the scene's frames alone, one for each row, or
    MEDIA/VIDEO_ID.mp4             the whole video, in which the timestamps tell the frames; also MEDIA/VIDEO_ID/

Read off the sets' own files and the scripts by which people download them (real_estate_10k_tools,
real-estate-10k-downloader, CameraCtrl's). Where several are there, the first of these is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.importers.images import IMAGE_SUFFIXES, read_image
from data.importers.path_text import (
    read_lines,
    realestate10k_cameras,
    realestate10k_rows,
)
from data.importers.posed_scene import FrameFit, Frames, PosedScene, SceneRef, fit_pictures
from data.importers.recorded_path import RecordedPath
from data.importers.timed_frames import frames_at, frames_numbered
from data.left_out import LeftOut, Reason, left_out_for

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv")
NEAR_ENOUGH = 0.6
"""A video's frame may be off a timestamp by this share of the usual step between timestamps."""


@dataclass(frozen=True)
class CameraFileScenes:
    """The scenes of a folder of camera files. media: where their videos or frames are."""

    cameras: Path
    media: Path

    def list_scenes(self) -> list[SceneRef]:
        """All scenes by the names of their camera files; raises UserError where there is none."""
        for folder in (self.cameras, self.media):
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder")
        names = sorted(path.stem for path in self.cameras.glob("*.txt"))
        if not names:
            below = sorted(f.name for f in self.cameras.iterdir() if any(f.glob("*.txt")))
            hint = f"; it has {', '.join(below)}: name one of them" if below else ""
            raise UserError(
                f"{self.cameras}: has no camera files (KEY.txt) and no chunks (*.torch){hint}"
            )
        return [SceneRef(name) for name in names]

    def open(self, scene: SceneRef, fit: FrameFit) -> PosedScene:
        """The scene's cameras, and the best way to its frames; raises LeftOut."""
        with left_out_for(Reason.CAMERAS):
            address, path = read_camera_file(self.cameras / f"{scene.name}.txt")
        assert path.intrinsics is not None
        times = path.times.long().tolist()
        reader = self._find_media(scene.name, address, times, path.intrinsics)
        return PosedScene(scene.name, path.world_to_camera, reader)

    def _find_media(
        self, name: str, address: str, times: list[int], shares: Float[Tensor, "t 3 3"]
    ) -> FolderFrames | VideoFrames:
        video_id = id_in_address(address)
        names = dict.fromkeys(n for n in (name, video_id) if n)
        for folder in (self.media / n for n in names):
            if folder.is_dir():
                return FolderFrames(_timed_images(folder, times), shares)
        for n in names:
            for suffix in VIDEO_SUFFIXES:
                if (video := self.media / f"{n}{suffix}").is_file():
                    return VideoFrames(video, times, shares, is_cut=n == name and n != video_id)
        tried = " or ".join(str(self.media / n) for n in names)
        raise LeftOut(Reason.NO_MEDIA, f"{tried}: no folder of frames and no video of that name")


@dataclass(frozen=True)
class FolderFrames:
    """Frames that are image files. shares: intrinsics in shares of an image's size."""

    images: list[Path]
    shares: Float[Tensor, "t 3 3"]

    def __call__(self, views: Sequence[int], fit: FrameFit) -> Frames:
        def pictures(numbers: list[int]) -> Iterable[Float[Tensor, "3 h w"]]:
            return (read_image(self.images[number]) for number in numbers)

        return fit_pictures(views, pictures, self.shares, fit, str(self.images[0].parent))


@dataclass(frozen=True)
class VideoFrames:
    """Frames in a video. is_cut: it holds the scene's frames alone, one for each timestamp."""

    video: Path
    times_us: list[int]
    shares: Float[Tensor, "t 3 3"]
    is_cut: bool

    def __call__(self, views: Sequence[int], fit: FrameFit) -> Frames:
        def pictures(numbers: list[int]) -> Iterable[Float[Tensor, "3 h w"]]:
            if self.is_cut:
                return frames_numbered(self.video, numbers, len(self.times_us))
            step = float(torch.tensor(self.times_us).diff().double().median())
            times = [self.times_us[number] for number in numbers]
            return frames_at(self.video, times, NEAR_ENOUGH * step)

        return fit_pictures(views, pictures, self.shares, fit, str(self.video))


def read_camera_file(path: Path) -> tuple[str, RecordedPath]:
    """The video's address ("" where the file has none) and its cameras, timed in microseconds.

    Raises UserError that names the line or the first camera that is wrong.
    """
    lines = read_lines(path)
    address = lines[0][1] if lines and "://" in lines[0][1] else ""
    rows, numbers = realestate10k_rows(lines, path)
    intrinsics, transforms = realestate10k_cameras(
        rows[:, 1:], lambda row: f"{path}, line {numbers[row]}"
    )
    return address, RecordedPath.from_world_to_camera(str(path), transforms, intrinsics, rows[:, 0])


def id_in_address(address: str) -> str:
    """A video's id: "v" of ".../watch?v=ID", else the last part of the address; "" where there is none."""
    parts = urlsplit(address)
    return parse_qs(parts.query).get("v", [parts.path.rstrip("/").rpartition("/")[2]])[0]


def _timed_images(folder: Path, times: list[int]) -> list[Path]:
    """The image of each timestamp in a folder; raises LeftOut where one is missing."""
    found = {
        int(path.stem): path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdecimal()
    }
    missing = [time for time in times if time not in found]
    if missing:
        raise LeftOut(
            Reason.MISSING,
            f"{folder}: {len(missing)} of {len(times)} frames are missing; the first is {missing[0]}",
        )
    return [found[time] for time in times]
