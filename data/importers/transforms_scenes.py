"""DL3DV: a folder for each scene with `transforms.json` (nerfstudio's), its images in folders of several sizes.

    ROOT/1K/HASH/transforms.json       cameras for images of 3840x2160, with lens distortion
    ROOT/1K/HASH/images_4/frame_00001.png     the images at a quarter of that, where the file says images/

Scenes may lie up to `MAX_DEPTH` folders below the root (the benchmark's are in HASH/nerfstudio).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from configs.errors import UserError
from data.importers.images import image_size, natural_order
from data.importers.nerfstudio import read_posed_images
from data.importers.posed_images import PosedImage, load_posed_image
from data.importers.posed_scene import FrameFit, Frames, PosedScene, SceneRef
from data.left_out import LeftOut, Reason, left_out_for

FILE = "transforms.json"
MAX_DEPTH = 3
SMALLER = ("_8", "_4", "_2", "")
"""Endings of the folders with smaller copies of the images, the smallest first."""


@dataclass(frozen=True)
class TransformsScenes:
    """The scenes below a folder.

    images: name of the image folder in each scene's; None takes the smallest copies that are large enough.
    """

    root: Path
    images: str | None = None

    def list_scenes(self) -> list[SceneRef]:
        """All scenes by their folders below the root; raises UserError where there is none."""
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder")
        names = sorted(_scene_folders(self.root, "", MAX_DEPTH))
        if not names:
            raise UserError(
                f"{self.root}: has no scenes: expected folders with a {FILE}, at most {MAX_DEPTH} folders below it"
            )
        return [SceneRef(name) for name in names]

    def open(self, scene: SceneRef, fit: FrameFit) -> PosedScene:
        """One of them, its frames in the order of their names; raises LeftOut."""
        folder = self.root / scene.name
        with left_out_for(Reason.CAMERAS):
            images = read_posed_images(folder / FILE)
        images.sort(key=lambda image: natural_order(image.path.name))
        found = self._find_images(folder, images, fit)
        world_to_camera = torch.stack([image.world_to_camera for image in found])
        return PosedScene(scene.name, world_to_camera, PosedImageFrames(found))

    def _find_images(
        self, folder: Path, images: list[PosedImage], fit: FrameFit
    ) -> list[PosedImage]:
        """The images where they really are: in the named folder, or in that of the best size."""
        stated = images[0].path.parent
        endings = SMALLER if self.images is None else ("",)
        base = stated if self.images is None else folder / self.images
        folders = [base.with_name(base.name + ending) for ending in endings]
        there = [found for found in folders if found.is_dir()]
        if not there:
            tried = ", ".join(found.name for found in folders)
            raise LeftOut(Reason.NO_MEDIA, f"{folder}: has no folder of images ({tried})")
        for candidate in there:
            found = _images_in(candidate, images)
            with left_out_for(Reason.UNDECODABLE):
                height, width = image_size(found[0].path)
            if height >= fit.height and width >= fit.width:
                return found
        fit.check(height, width, str(candidate))
        return found


@dataclass(frozen=True)
class PosedImageFrames:
    """Frames that are image files, of which each has its camera; lens distortion is undone."""

    images: list[PosedImage]

    def __call__(self, views: Sequence[int], fit: FrameFit) -> Frames:
        frames = torch.empty(len(views), 3, fit.height, fit.width)
        intrinsics = torch.empty(len(views), 3, 3, dtype=torch.float64)
        for number, view in enumerate(views):
            frames[number], intrinsics[number] = load_posed_image(
                self.images[view], fit.height, fit.width
            )
        return frames, intrinsics


def _scene_folders(folder: Path, name: str, depth: int) -> Iterator[str]:
    """Names, relative to the root, of the folders that hold a scene. Those of a scene are not searched."""
    if (folder / FILE).is_file():
        yield name or "."
    elif depth:
        with os.scandir(folder) as entries:
            below = [e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__"))]
        for entry in below:
            yield from _scene_folders(
                folder / entry, f"{name}/{entry}" if name else entry, depth - 1
            )


def _images_in(folder: Path, images: list[PosedImage]) -> list[PosedImage]:
    """The images of the same names in `folder`, whatever their suffix; raises LeftOut where one is missing."""
    files = {file.stem: file for file in folder.iterdir()}
    missing = [image.path.name for image in images if image.path.stem not in files]
    if missing:
        raise LeftOut(
            Reason.MISSING,
            f"{folder}: {len(missing)} of {len(images)} images are missing; the first is {missing[0]}",
        )
    return [replace(image, path=files[image.path.stem]) for image in images]
