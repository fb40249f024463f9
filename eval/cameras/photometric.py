"""Camera error without features: cameras from direct alignment of the frames, with error bars.

For frames that are too small or too smooth for structure from motion. `train.alignment.direct` finds the cameras
from pixels alone; here they are compared with the commanded ones.

How far to trust it, measured on procedural clips of 17 frames of 64x96 (see the tests): the typical error of a
camera is about half a degree and 3% of the path's span, and a few times that where the camera moves little and
the lens is long, since turning and moving sideways then look alike. The error bars say so: they are what the
alignment's covariance gives, times `DEVIATIONS`, which makes them as large as the errors that were measured.
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
from data.scene_depth import sweep_depth
from eval.cameras.camera_error import LEAST_FRAMES, CameraError, is_blank, why_nothing_to_find
from eval.cameras.epipolar import matched_distances
from eval.cameras.path_error import PathError, error_line, path_error
from eval.scores.measured import NotAvailable, to_json
from train.alignment.direct import STILL, Alignment, AlignmentConfig, align_frames
from train.alignment.uncertainty import sample_poses
from train.randomness import derive_seed

FROM_FEATURES, COMMANDED = "structure from motion", "commanded"
DEVIATIONS = 3.5
"""Errors of cameras are so many times the standard deviations of the alignment's covariance, which knows of noise but
not of what the model leaves out (edges of objects, reflections, blur)."""
STILL_PX = 0.25
"""Frames in which hardly a pixel moves by more, at the size at which they are aligned, show a camera at rest."""
UNCERTAIN = 0.5
"""Where the error bar of the farthest camera's place is a larger share of its distance, there is no telling moving
from turning, and no translation error."""
SAMPLES = 64


class PhotometricConfig(Config):
    """How cameras are found from pixels."""

    alignment: AlignmentConfig = AlignmentConfig()
    least_explained: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="below this share of explained variance the frames do not show one still scene",
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

    num_frames: how many were looked at. views: numbers of those whose camera was found: all that are not blank.
    explained, moved_px, start: see `Alignment`; moved_px in pixels of the frames.
    epipolar_px: how far the pixels, moved as the frames say, lie from where the commanded cameras allow them to be
        (median, pixels of the frames); small also where turning and moving can't be told apart.
    found: the cameras, relative to the first view, in an arbitrary unit.
    """

    num_frames: int
    views: tuple[int, ...]
    error: PathError | NotAvailable
    bars: ErrorBars | None = None
    explained: float | None = None
    moved_px: float | None = None
    epipolar_px: float | None = None
    start: str | None = None
    found: Cameras | None = None

    def line(self) -> dict[str, Any]:
        """Plain JSON."""
        bars = self.bars
        return error_line(self.error) | to_json(
            {
                "r_err_deg_deviation": bars and bars.r_err_deg,
                "t_err_deviation": bars and bars.t_err,
                "r_floor_deg": bars and bars.r_floor_deg,
                "t_floor": bars and bars.t_floor,
                "frames": self.num_frames,
                "placed": self.views,
                "explained": self.explained,
                "moved_px": self.moved_px,
                "epipolar_px": self.epipolar_px,
                "start": self.start,
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

    placed: what structure from motion found of the same frames, to start from. Standing still, and the commanded
        cameras, are tried too; the cameras found depend on where they start only as far as that fits better.

    The same frames give the same numbers. Raises UserError where frames and cameras differ in number or size.
    """
    check_cameras_fit(frames, cameras)
    if (why := why_nothing_to_find(frames)) is not None:
        return PhotometricCameraError(len(frames), (), why)
    seen = [number for number, frame in enumerate(frames) if not is_blank(frame)]
    assert len(seen) >= LEAST_FRAMES
    shown, wanted = frames[seen].float(), cameras.to(torch.float64).select(seen)
    alignment = align_frames(shown, wanted, config.alignment, _starts(shown, wanted, seen, placed))
    scale = cameras.height / alignment.pixels.height
    result = PhotometricCameraError(
        num_frames=len(frames),
        views=tuple(seen),
        error=NotAvailable(""),
        explained=alignment.explained,
        moved_px=alignment.moved_px * scale,
        epipolar_px=scale * epipolar_distance(alignment, wanted),
        start=alignment.start,
        found=alignment.cameras,
    )
    if alignment.explained < config.least_explained:
        why = NotAvailable(
            f"alignment explains {max(alignment.explained, 0.0):.0%} of what the frames show, less than"
            f" least_explained = {config.least_explained:.0%}: they do not show one still scene, or too much changes"
            " from one to the next"
        )
        return replace(result, error=why, epipolar_px=None, found=None)
    generator = torch.Generator().manual_seed(derive_seed("photometric cameras", config.seed))
    error, bars = _with_error_bars(alignment, cameras, seen, generator)
    return replace(result, error=error, bars=bars)


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
    frames: Float[Tensor, "t 3 h w"],
    commanded: Cameras,
    views: Sequence[int],
    placed: CameraError | None,
) -> dict[str, Cameras | None]:
    """Where alignment may start, what knows nothing of the commanded cameras first."""
    starts: dict[str, Cameras | None] = {}
    if placed is not None and placed.found is not None and placed.median_depth is not None:
        rows = [
            min(range(len(placed.placed)), key=lambda row: abs(placed.placed[row] - view))
            for view in views
        ]
        near = replace(
            commanded, world_to_camera=placed.found.world_to_camera[rows].to(torch.float64)
        )
        starts[FROM_FEATURES] = near.rescaled(placed.median_depth)
    starts[STILL] = None
    relative = commanded.relative_to(0)
    depth = sweep_depth(frames, relative.to(torch.float32))
    starts[COMMANDED] = relative if depth is None else relative.rescaled(depth)
    return starts


def _with_error_bars(
    alignment: Alignment,
    commanded: Cameras,
    views: Sequence[int],
    generator: torch.Generator,
) -> tuple[PathError, ErrorBars]:
    """The error of the cameras found, and how certain it is."""
    found, stands_still = alignment.cameras, alignment.moved_px < STILL_PX
    error = path_error(found, commanded, views, found_moves=not stands_still)
    samples = [
        replace(found, world_to_camera=poses)
        for poses in sample_poses(
            found.world_to_camera, DEVIATIONS**2 * alignment.covariance, SAMPLES, generator
        )
    ]
    if not stands_still and not isinstance(error.translation, NotAvailable):
        farthest = int(found.positions.norm(dim=-1).argmax())
        places = torch.stack([sample.positions[farthest] for sample in samples])
        bar = (places - found.positions[farthest]).square().sum(-1).mean().sqrt()
        if float(bar / found.positions[farthest].norm().clamp_min(1e-12)) > UNCERTAIN:
            why = NotAvailable(
                "the frames do not tell moving from turning: the error bar of the farthest camera's place is more"
                f" than {UNCERTAIN:.0%} of its distance"
            )
            error = replace(error, translation=why)
    to_commanded = [
        path_error(sample, commanded, views, found_moves=not stands_still) for sample in samples
    ]
    numbers = range(len(views))
    to_found = [path_error(sample, found, numbers) for sample in samples]
    has_translation = not isinstance(error.translation, NotAvailable)
    return error, ErrorBars(
        r_err_deg=_deviation([one.r_err_deg for one in to_commanded]),
        t_err=_deviation(_numbers(to_commanded)) if has_translation else None,
        r_floor_deg=_mean([one.r_err_deg for one in to_found]),
        t_floor=_mean(_numbers(to_found)) if has_translation and not stands_still else None,
    )


def _numbers(errors: Sequence[PathError]) -> list[float]:
    return [one.t_err for one in errors if not isinstance(one.t_err, NotAvailable)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation."""
    mean = _mean(values)
    return _mean([(value - mean) ** 2 for value in values]) ** 0.5
