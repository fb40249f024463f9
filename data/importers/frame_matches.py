"""SIFT features of frames in memory and their matches: what camera scores are measured on."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from data.importers.features import find_features, match_features, quiet_colmap
from data.importers.images import write_image
from data.importers.posed_images import Progress
from data.importers.structure_from_motion import image_pairs

if TYPE_CHECKING:
    import pycolmap

Matches = tuple[Float[Tensor, "m 2"], Float[Tensor, "m 2"]]
"""Positions of the same m features in two frames, pixels, float64."""


class MatchConfig(Config):
    """How features are sought."""

    max_features: int = Field(4096, gt=0, description="the strongest so many of each frame")
    enlarge_below: int = Field(
        256,
        gt=0,
        description="frames whose short side is smaller [px] are enlarged by a whole factor first: SIFT"
        " finds next to nothing in pictures of 64x96",
    )
    enlarge_most: int = Field(4, gt=0, description="but by no more than this factor")


@dataclass(frozen=True)
class FrameMatches:
    """Features of frames and their matches, in a COLMAP database that lives as long as `match_frames` is open.

    cameras: only their intrinsics and size are used; those that the database has are as large as `enlargement`
        makes the frames. names: of the frames' files below `images`.
    """

    images: Path
    database: Path
    names: tuple[str, ...]
    cameras: Cameras
    enlargement: int

    def num_features(self) -> list[int]:
        """How many features each frame has."""
        import pycolmap

        with pycolmap.Database.open(self.database) as entries:
            ids = self._ids(entries)
            return [entries.num_keypoints_for_image(number) for number in ids]

    def num_verified_pairs(self, least: int) -> int:
        """Pairs of frames with at least `least` matches that agree on some relative camera."""
        import pycolmap

        with pycolmap.Database.open(self.database) as entries:
            _, counts = entries.read_two_view_geometry_num_inliers()
            return sum(count >= least for count in counts)

    def matches(self, pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """The matches of pairs of frames by their descriptors alone, whatever geometry they agree with.

        There are none for pairs that were not asked for when the frames were matched.
        """
        import pycolmap

        with pycolmap.Database.open(self.database) as entries:
            ids = self._ids(entries)
            places = [
                torch.from_numpy(entries.read_keypoints(number)[:, :2].copy()).double()
                / self.enlargement
                for number in ids
            ]
            found = []
            for first, second in pairs:
                rows = torch.zeros(0, 2, dtype=torch.long)
                if entries.exists_matches(ids[first], ids[second]):
                    table = entries.read_matches(ids[first], ids[second])
                    rows = torch.from_numpy(table.astype("int64"))
                found.append((places[first][rows[:, 0]], places[second][rows[:, 1]]))
            return found

    def _ids(self, entries: pycolmap.Database) -> list[int]:
        numbers = {image.name: image.image_id for image in entries.read_all_images()}
        return [numbers[name] for name in self.names]


@contextmanager
def match_frames(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    config: MatchConfig,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[FrameMatches]:
    """Features of frames in [0, 1] and their matches; the files vanish at the end.

    cameras: of the frames; their poses are not looked at. Frames of equal intrinsics share a COLMAP camera.
    pairs: which frames are matched; None is as `image_pairs` does with frames in order.

    The same frames and seed give the same matches. Raises UserError where frames and cameras differ in
    number or size.
    """
    check_cameras_fit(frames, cameras)
    factor = enlargement(cameras, config)
    large = cameras.resize(cameras.height * factor, cameras.width * factor)
    with tempfile.TemporaryDirectory(prefix="frames-") as folder, quiet_colmap():
        images, database = Path(folder) / "images", Path(folder) / "features.db"
        names = _write_frames(frames, cameras, images, factor)
        find_features(
            database,
            images,
            names,
            camera_model="PINHOLE",
            one_camera_a_folder=True,
            max_features=config.max_features,
            progress=progress,
        )
        _set_intrinsics(database, names, large)
        chosen = (
            image_pairs(names, ordered=True)
            if pairs is None
            else [(names[i], names[j]) for i, j in pairs]
        )
        match_features(database, chosen, seed=seed, lenses_known=True, progress=progress)
        yield FrameMatches(images, database, tuple(names), cameras, factor)


def check_cameras_fit(frames: Float[Tensor, "t 3 h w"], cameras: Cameras) -> None:
    """Raises UserError where frames and cameras differ in number or size."""
    if len(frames) != cameras.num_views:
        raise UserError(
            f"{len(frames)} frames but {cameras.num_views} cameras; give one camera a frame"
        )
    height, width = frames.shape[-2:]
    if (height, width) != (cameras.height, cameras.width):
        raise UserError(
            f"frames are {height}x{width} but the cameras' intrinsics are for"
            f" {cameras.height}x{cameras.width} (height x width); resize them together"
        )


def enlargement(cameras: Cameras, config: MatchConfig) -> int:
    """The whole factor by which frames of this size are enlarged before features are sought."""
    wanted = math.ceil(config.enlarge_below / min(cameras.height, cameras.width))
    return max(1, min(wanted, config.enlarge_most))


def _write_frames(
    frames: Float[Tensor, "t 3 h w"], cameras: Cameras, folder: Path, factor: int
) -> list[str]:
    """PNG files, one sub-folder for each set of intrinsics; their names below `folder`."""
    names: list[str] = []
    lenses: list[tuple[float, ...]] = []
    for number, (frame, matrix) in enumerate(zip(frames, cameras.intrinsics, strict=True)):
        lens = tuple(matrix.double().flatten().tolist())
        if lens not in lenses:
            lenses.append(lens)
            (folder / f"{lenses.index(lens):05d}").mkdir(parents=True)
        name = f"{lenses.index(lens):05d}/{number:06d}.png"
        if factor > 1:
            frame = F.interpolate(frame[None], scale_factor=float(factor), mode="bicubic")[0]
        write_image(frame, folder / name)
        names.append(name)
    return names


def _set_intrinsics(database: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Tells the database the cameras' intrinsics instead of those that it guessed."""
    import pycolmap

    with pycolmap.Database.open(database) as entries:
        by_name = {image.name: image for image in entries.read_all_images()}
        for name, matrix in zip(names, cameras.intrinsics.double(), strict=True):
            camera = pycolmap.Camera(
                camera_id=by_name[name].camera_id,
                model="PINHOLE",
                width=cameras.width,
                height=cameras.height,
                params=[float(matrix[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))],
            )
            camera.has_prior_focal_length = True
            entries.update_camera(camera)
