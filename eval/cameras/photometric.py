"""Camera error without features: cameras from direct alignment of the frames, with error bars.

For frames that are too small or too smooth for structure from motion. `train.alignment.direct` finds the cameras
from pixels alone; here they are compared with the commanded ones. `eval/validation/cameras.md` says how far to trust
it; the error bars and the explained share say where not to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from data.cameras import Cameras
from data.importers.frame_matches import check_cameras_fit
from eval.cameras.camera_error import LEAST_FRAMES, CameraError, is_blank, why_nothing_to_find
from eval.cameras.epipolar import matched_distances
from eval.cameras.path_error import PathError, error_line, path_error
from eval.scores.measured import NotAvailable, to_json
from train.alignment.direct import STILL, Alignment, AlignmentConfig, align_frames
from train.alignment.uncertainty import sample_poses
from train.randomness import derive_seed

FROM_FEATURES = "structure from motion"
DEVIATIONS = 4.2
"""Errors of cameras are so many times the standard deviations of the alignment's covariance, which knows of noise but
not of what the model leaves out (edges of objects, reflections, blur)."""
STILL_PX = 0.25
"""Frames in which hardly a pixel moves by more, at the size at which they are aligned, show a camera at rest."""
UNCERTAIN = 0.5
"""Where the error bar of the farthest camera's place is a larger share of its distance, there is no telling moving
from turning, and no translation error."""
SAMPLES = 64
"""Cameras drawn from the covariance, whose errors are the error bars."""


class PhotometricConfig(Config):
    """How cameras are found from pixels."""

    alignment: AlignmentConfig = AlignmentConfig()
    least_explained: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="below this share of explained variance there is no error: the frames do not show one still"
        " scene, or the alignment failed",
    )
    seed: int = Field(0, ge=0, description="of the samples that error bars are made of")


@dataclass(frozen=True)
class ErrorBars:
    """How certain a camera error is.

    r_err_deg, t_err: standard deviations of the two means. r_floor_deg, t_floor: what a video that follows its
    cameras perfectly would score, on average, because of the measurement alone. None where there is no T_err.
    """

    r_err_deg: float
    t_err: float | None
    r_floor_deg: float
    t_floor: float | None


@dataclass(frozen=True)
class PhotometricCameraError:
    """Photometric camera error of one clip.

    num_frames: how many were looked at. views: numbers of those that were aligned: all that are not blank.
    error: of the views after the first; or why there is none.
    bars: how certain it is; None without an error.
    epipolar_px: how far the pixels, moved as the frames say, lie from where the commanded cameras allow them to be
        (median, pixels of the frames); small also where turning and moving can't be told apart.
    alignment: of the views; None where nothing was tried.
    """

    num_frames: int
    views: tuple[int, ...]
    error: PathError | NotAvailable
    bars: ErrorBars | None = None
    epipolar_px: float | None = None
    alignment: Alignment | None = None

    @property
    def found(self) -> Cameras | None:
        """The views' cameras, relative to the first, in an arbitrary unit; None without an error."""
        if self.alignment is None or isinstance(self.error, NotAvailable):
            return None
        return self.alignment.cameras

    def line(self) -> dict[str, Any]:
        """Plain JSON; `explained` and `start` as in `Alignment`, `moved_px` too but in pixels of the frames."""
        bars, alignment = self.bars, self.alignment
        return error_line(self.error) | to_json(
            {
                "r_err_deg_deviation": bars and bars.r_err_deg,
                "t_err_deviation": bars and bars.t_err,
                "r_floor_deg": bars and bars.r_floor_deg,
                "t_floor": bars and bars.t_floor,
                "frames": self.num_frames,
                "placed": self.views,
                "explained": alignment and alignment.explained,
                "moved_px": alignment and alignment.moved_px * _enlargement(alignment),
                "epipolar_px": self.epipolar_px,
                "start": alignment and alignment.start,
            }
        )


def photometric_camera_error(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    config: PhotometricConfig,
    *,
    placed: CameraError | None = None,
) -> PhotometricCameraError:
    """R_err and T_err of frames in [0, 1] that should show what `cameras` see, from their pixels alone.

    placed: what structure from motion found of the same frames, to start from; standing still is tried too. The
        commanded poses are not: that would favour them.

    The same frames give the same numbers. Raises UserError where frames and cameras differ in number or size.
    """
    check_cameras_fit(frames, cameras)
    if (why := why_nothing_to_find(frames)) is not None:
        return PhotometricCameraError(len(frames), (), why)
    views = [number for number, frame in enumerate(frames) if not is_blank(frame)]
    assert len(views) >= LEAST_FRAMES
    lenses = cameras.select(views)
    starts = _starts(lenses, views, placed)
    alignment = align_frames(frames[views].float(), lenses, config.alignment, starts)
    return alignment_error(alignment, views, cameras, config)


def alignment_error(
    alignment: Alignment, views: Sequence[int], cameras: Cameras, config: PhotometricConfig
) -> PhotometricCameraError:
    """The error of aligned frames, `views` of a clip, against any cameras of the whole clip.

    The cameras' intrinsics are those that the frames were aligned with.
    """
    found = PhotometricCameraError(
        cameras.num_views,
        tuple(views),
        _error(alignment, views, cameras, config),
        alignment=alignment,
    )
    if isinstance(found.error, NotAvailable):
        return found
    generator = torch.Generator().manual_seed(derive_seed("photometric cameras", config.seed))
    covariance = DEVIATIONS**2 * alignment.covariance
    samples = [
        replace(alignment.cameras, world_to_camera=poses)
        for poses in sample_poses(alignment.cameras.world_to_camera, covariance, SAMPLES, generator)
    ]
    if _moves(alignment) and _farthest_deviation(alignment.cameras, samples) > UNCERTAIN:
        why = NotAvailable(
            "the frames do not tell moving from turning: the error bar of the farthest camera's place is more than"
            f" {UNCERTAIN:.0%} of its distance"
        )
        found = replace(found, error=replace(found.error, translation=why))
    return replace(
        found,
        bars=_error_bars(found, samples, cameras),
        epipolar_px=_enlargement(alignment)
        * epipolar_distance(alignment, cameras.select(list(views))),
    )


def epipolar_distance(alignment: Alignment, commanded: Cameras) -> float:
    """Median distance [working px] of the aligned pixels from where the commanded cameras allow them to be."""
    pixels = alignment.pixels
    cameras = commanded.to(torch.float64).resize(pixels.height, pixels.width)
    look = pixels.look_up(alignment.state)
    distances = [
        matched_distances(
            cameras.select(int(key)),
            cameras.select(int(other)),
            (start[seen].double(), end[seen].double()),
        )
        for key, other, start, end, seen in zip(
            pixels.keys, pixels.others, pixels.positions, look.places, look.seen, strict=True
        )
    ]
    together = torch.cat(distances)
    return float(together.median()) if len(together) else 0.0


def _starts(
    lenses: Cameras, views: Sequence[int], placed: CameraError | None
) -> dict[str, Cameras | None]:
    """Where alignment may start, what is trusted more first. A frame that was not placed starts as its nearest."""
    starts: dict[str, Cameras | None] = {}
    if placed is not None and (model := placed.placement) is not None:
        rows = [
            min(range(len(model.views)), key=lambda row: abs(model.views[row] - view))
            for view in views
        ]
        near = replace(lenses, world_to_camera=model.cameras.world_to_camera[rows])
        starts[FROM_FEATURES] = near.rescaled(model.median_depth)
    starts[STILL] = None
    return starts


def _error(
    alignment: Alignment, views: Sequence[int], cameras: Cameras, config: PhotometricConfig
) -> PathError | NotAvailable:
    if alignment.explained >= config.least_explained:
        return path_error(alignment.cameras, cameras, views, found_moves=_moves(alignment))
    return NotAvailable(
        f"alignment explains {max(alignment.explained, 0.0):.0%} of what the frames show, less than least_explained ="
        f" {config.least_explained:.0%}: they do not show one still scene, too much changes from one to the next, or"
        " too much is hidden in some"
    )


def _moves(alignment: Alignment) -> bool:
    """Whether the frames show a camera that is not at rest."""
    return alignment.moved_px >= STILL_PX


def _enlargement(alignment: Alignment) -> float:
    """Pixels of the frames in a pixel of the size at which they were aligned."""
    return alignment.cameras.height / alignment.pixels.height


def _farthest_deviation(found: Cameras, samples: Sequence[Cameras]) -> float:
    """The error bar of the farthest camera's place, as a share of its distance from the first."""
    farthest = int(found.positions.norm(dim=-1).argmax())
    place = found.positions[farthest]
    places = torch.stack([sample.positions[farthest] for sample in samples])
    bar = (places - place).square().sum(-1).mean().sqrt()
    return float(bar / place.norm().clamp_min(1e-12))


def _error_bars(
    found: PhotometricCameraError, samples: Sequence[Cameras], commanded: Cameras
) -> ErrorBars:
    assert found.alignment is not None and not isinstance(found.error, NotAvailable)
    moves = _moves(found.alignment)
    to_commanded = [
        path_error(sample, commanded, found.views, found_moves=moves) for sample in samples
    ]
    numbers = range(len(found.views))
    to_found = [path_error(sample, found.alignment.cameras, numbers) for sample in samples]
    has_translation = not isinstance(found.error.translation, NotAvailable)
    return ErrorBars(
        r_err_deg=_deviation([one.r_err_deg for one in to_commanded]),
        t_err=_deviation(_translations(to_commanded)) if has_translation else None,
        r_floor_deg=_mean([one.r_err_deg for one in to_found]),
        t_floor=_mean(_translations(to_found)) if has_translation and moves else None,
    )


def _translations(errors: Sequence[PathError]) -> list[float]:
    return [one.t_err for one in errors if not isinstance(one.t_err, NotAvailable)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation."""
    mean = _mean(values)
    return _mean([(value - mean) ** 2 for value in values]) ** 0.5
