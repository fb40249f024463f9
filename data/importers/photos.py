"""Photos or a video without cameras become a posed clip, by pycolmap's structure from motion."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import ExifTags, Image
from torch import Tensor

from configs.errors import UserError
from data.clips import Clip
from data.importers.colmap import clip_from_reconstruction
from data.importers.images import list_images, read_image, resize_and_crop, to_picture
from data.importers.posed_images import Progress
from data.importers.structure_from_motion import structure_from_motion
from data.importers.video import iterate_video

MIN_PHOTOS = 3

MAX_SIDE = 1600
"""Larger photos are made smaller before features are sought: more pixels cost time, not registration."""

CURE = (
    "take photos of a scene that stays still, with texture, from places side by side (not turning on"
    " the spot), each overlapping the next by about two thirds"
)


@dataclass(frozen=True)
class RegistrationReport:
    """How well structure from motion placed the photos.

    registered, unregistered: names of the photos, in order.
    num_models: separate pieces that the photos fell into; the largest was kept.
    num_points: 3D points in it.
    reprojection_error_px: mean over its observations, pixels of photos of at most `MAX_SIDE`.
    """

    registered: tuple[str, ...]
    unregistered: tuple[str, ...]
    num_models: int
    num_points: int
    reprojection_error_px: float

    def describe(self) -> str:
        """One or two sentences for the person who took the photos."""
        total = len(self.registered) + len(self.unregistered)
        text = (
            f"{len(self.registered)} of {total} photos placed, {self.num_points} points,"
            f" mean reprojection error {self.reprojection_error_px:.2f} px"
        )
        if self.num_models > 1:
            text += f"; the photos fell into {self.num_models} separate pieces, the largest is kept"
        if self.unregistered:
            text += f". Left out: {', '.join(self.unregistered)}"
        return text


def reconstruct_photos(
    folder: Path | str,
    height: int,
    width: int,
    *,
    ordered: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Clip, RegistrationReport]:
    """A clip of the photos that could be placed, in order of their names, and how well that went.

    ordered: the photos follow each other as in a video: each is matched only with its neighbours.
        Otherwise every pair is tried, and time grows with the square of their number.

    Photos are turned upright by EXIF, whose focal length starts the calibration; those of one size and
    focal length share one camera with one radial coefficient. Cameras are float64 in arbitrary axes and
    unit of length, `depth` is sparse (see `clip_from_reconstruction`): the caller normalises. The same
    photos and seed give the same cameras. Raises UserError for a damaged photo and where fewer than
    `MIN_PHOTOS` can be placed.
    """
    folder = Path(folder)
    paths = list_images(folder)
    if len(paths) < MIN_PHOTOS:
        raise UserError(
            f"{folder} has {len(paths)} photos (JPEG, PNG, WebP, TIFF or BMP); expected at least"
            f" {MIN_PHOTOS}, better 20 or more"
        )
    with tempfile.TemporaryDirectory(prefix="photos-") as work:
        names = _copy_photos(paths, Path(work) / "images", progress)
        return _reconstruct(
            Path(work), names, height, width, folder.absolute().name, ordered, seed, progress
        )


def reconstruct_video(
    path: Path | str,
    height: int,
    width: int,
    *,
    max_frames: int,
    stride: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Clip, RegistrationReport]:
    """As `reconstruct_photos` of every `stride`-th frame of a video, at most `max_frames` of them."""
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="video-") as work:
        (Path(work) / "images").mkdir()
        names: dict[str, str] = {}
        for i, frame in enumerate(iterate_video(path, stride=stride, max_frames=max_frames)):
            name = f"{i:05d}.jpg"
            _write_copy(frame, Path(work) / "images" / name, Image.Exif())
            names[name] = f"frame {i * stride}"
            if progress is not None:
                progress("read video", i + 1, max_frames)
        if len(names) < MIN_PHOTOS:
            raise UserError(
                f"{path} gives {len(names)} frames at stride {stride}; expected at least"
                f" {MIN_PHOTOS}, better 20 or more"
            )
        return _reconstruct(Path(work), names, height, width, path.stem, True, seed, progress)


def _reconstruct(
    work: Path,
    names: dict[str, str],
    height: int,
    width: int,
    source: str,
    ordered: bool,
    seed: int,
    progress: Progress | None,
) -> tuple[Clip, RegistrationReport]:
    """Structure from motion on `work/images`; `names` takes the files there to what people call them."""
    images = work / "images"
    model, num_models = structure_from_motion(
        images, work, list(names), ordered=ordered, seed=seed, progress=progress
    )
    placed = set() if model is None else {i.name for i in model.images.values() if i.has_pose}
    if model is None or len(placed) < MIN_PHOTOS:
        raise UserError(
            f"{source}: only {len(placed)} of {len(names)} photos could be placed in space, expected"
            f" at least {MIN_PHOTOS}; {CURE}"
        )
    registered = [name for name in names if name in placed]
    clip = clip_from_reconstruction(
        model, images, height, width, source=source, names=registered, progress=progress
    )
    report = RegistrationReport(
        registered=tuple(names[name] for name in registered),
        unregistered=tuple(label for name, label in names.items() if name not in placed),
        num_models=num_models,
        num_points=model.num_points3D(),
        reprojection_error_px=model.compute_mean_reprojection_error(),
    )
    return clip, report


def _copy_photos(paths: Sequence[Path], folder: Path, progress: Progress | None) -> dict[str, str]:
    """Upright RGB copies of at most `MAX_SIDE`, one sub-folder for each size and focal length.

    Returns the copies' names, in the photos' order, with the photos' own names.
    """
    names: dict[str, str] = {}
    lenses: list[object] = []
    for i, path in enumerate(paths):
        photo = read_image(path)
        exif, lens = _lens_exif(path)
        key = (photo.shape, lens)
        if key not in lenses:
            lenses.append(key)
            (folder / f"{lenses.index(key):05d}").mkdir(parents=True)
        name = f"{lenses.index(key):05d}/{i:05d}.jpg"
        _write_copy(photo, folder / name, exif)
        names[name] = path.name
        if progress is not None:
            progress("read photos", i + 1, len(paths))
    return names


def _write_copy(photo: Float[Tensor, "3 h w"], path: Path, exif: Image.Exif) -> None:
    height, width = photo.shape[-2:]
    scale = min(1.0, MAX_SIDE / max(height, width))
    if scale < 1:
        photo, _ = resize_and_crop(photo, round(height * scale), round(width * scale))
    to_picture(photo).save(path, quality=95, subsampling=0, exif=exif)


def _lens_exif(path: Path) -> tuple[Image.Exif, tuple[object, ...]]:
    """What a photo's EXIF says of camera and focal length, to write and to compare; no orientation."""
    tags, lens_tags = ExifTags.Base, ExifTags.IFD.Exif
    with Image.open(path) as picture:
        found = picture.getexif()
        found_lens = found.get_ifd(lens_tags)
    camera = {tag: found[tag] for tag in (tags.Make, tags.Model) if tag in found}
    focal_tags = (tags.FocalLength, tags.FocalLengthIn35mmFilm)
    lens = {tag: found_lens[tag] for tag in focal_tags if tag in found_lens}
    exif = Image.Exif()
    for tag, value in camera.items():
        exif[tag] = value
    if lens:
        exif[lens_tags] = lens
    return exif, (*camera.items(), *lens.items())
