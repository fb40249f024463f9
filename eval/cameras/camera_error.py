"""Camera error by structure from motion: where the frames were taken from, against where they should have been.

The cameras are found from the frames alone, by COLMAP's features and mappers, with the commanded intrinsics held
fixed unless the configuration says otherwise. What cannot be placed is told, and never counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from data.cameras import Cameras
from data.importers.frame_matches import (
    FrameMatches,
    MatchConfig,
    check_cameras_fit,
    match_frames,
)
from data.importers.frame_placement import FrameMapper, PlacedFrames, place_frames
from data.importers.posed_images import Progress
from eval.cameras.path_error import PathError, error_line, path_error
from eval.scores.measured import NotAvailable, to_json

LEAST_FRAMES = 3
LEAST_FEATURES = 30
"""A frame with fewer features counts as one without, and two frames with fewer matches as unmatched: only used to
say why no camera was found."""
LEAST_CONTRAST = 4 / 255
"""A frame whose values differ by less shows nothing: two levels of 255 to either side. Ours."""
CONTRAST_BETWEEN = (0.01, 0.99)
"""From which share of the values to which they differ, so that a few stray pixels do not count."""


class CameraErrorConfig(Config):
    """How cameras are found from frames."""

    matching: MatchConfig = MatchConfig()
    mapper: FrameMapper = Field(
        "best",
        description="`global` is GLOMAP, which places short, smooth motion better; `incremental` is COLMAP's classic"
        " mapper; `best` is `global`, and `incremental` where that places more frames",
    )
    intrinsics: Literal["commanded", "estimated"] = Field(
        "commanded",
        description="`commanded` holds the given ones fixed, as CamI2V's protocol does; `estimated` only starts there",
    )
    least_placed: float = Field(
        0.5,
        gt=0,
        le=1,
        description="below this share of placed frames there is no error: the few that are left flatter",
    )
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class CameraError:
    """Camera error of one clip.

    num_frames: how many were looked at.
    error: of the placed frames; or why there is none.
    placement: the cameras that were found; None where none was.
    """

    num_frames: int
    error: PathError | NotAvailable
    placement: PlacedFrames | None = None

    @property
    def placed(self) -> tuple[int, ...]:
        """Numbers of the frames whose camera was found."""
        return self.placement.views if self.placement else ()

    @property
    def found(self) -> Cameras | None:
        """Their cameras, in their own axes and unit."""
        return self.placement.cameras if self.placement else None

    @property
    def registration_rate(self) -> float:
        """Share of the frames whose camera was found."""
        return len(self.placed) / self.num_frames

    def line(self) -> dict[str, Any]:
        """Plain JSON."""
        model = self.placement
        return error_line(self.error) | to_json(
            {
                "registration_rate": self.registration_rate,
                "frames": self.num_frames,
                "placed": self.placed,
                "models": model.num_models if model else 0,
                "points": model.num_points if model else 0,
                "reprojection_error_px": model and model.reprojection_error_px,
            }
        )


def camera_error(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    config: CameraErrorConfig,
    *,
    matches: FrameMatches | None = None,
    progress: Progress | None = None,
) -> CameraError:
    """R_err and T_err of frames in [0, 1] that should show what `cameras` see.

    matches: those of `match_frames` on the same frames, for who needs them for more.

    The same frames give the same numbers. Raises UserError where frames and cameras differ in number or size.
    """
    check_cameras_fit(frames, cameras)
    if (why := why_nothing_to_find(frames)) is not None:
        return CameraError(len(frames), why)
    if matches is None:
        with match_frames(
            frames, cameras, config.matching, seed=config.seed, progress=progress
        ) as found:
            return camera_error(frames, cameras, config, matches=found, progress=progress)
    placed = place_frames(
        matches,
        mapper=config.mapper,
        refine_intrinsics=config.intrinsics == "estimated",
        seed=config.seed,
        progress=progress,
    )
    if placed is None:
        return CameraError(len(frames), _why_none_placed(matches))
    return CameraError(len(frames), placement_error(placed, cameras, config), placed)


def placement_error(
    placed: PlacedFrames, cameras: Cameras, config: CameraErrorConfig
) -> PathError | NotAvailable:
    """The error of frames that were placed against any cameras of all frames; or why there is none."""
    count, total = len(placed.views), cameras.num_views
    if count < max(LEAST_FRAMES, config.least_placed * total):
        pieces = f", in {placed.num_models} pieces" if placed.num_models > 1 else ""
        return NotAvailable(
            f"structure from motion placed only {count} of {total} frames{pieces}, fewer than least_placed ="
            f" {config.least_placed:g} of them: they do not show one scene, share too little of it, or are too smooth"
        )
    return path_error(placed.cameras, cameras, placed.views)


def why_nothing_to_find(frames: Float[Tensor, "t 3 h w"]) -> NotAvailable | None:
    """Why no camera can be found from frames, where a look at them tells."""
    if len(frames) < LEAST_FRAMES:
        return NotAvailable(
            f"cameras are found from at least {LEAST_FRAMES} frames; this clip has {len(frames)}"
        )
    blank = [number for number, frame in enumerate(frames) if is_blank(frame)]
    if len(blank) > len(frames) - LEAST_FRAMES:
        return NotAvailable(
            f"{len(blank)} of {len(frames)} frames are of one colour (the first is frame {blank[0]}); make them"
            " again"
        )
    return None


def is_blank(frame: Float[Tensor, "3 h w"]) -> bool:
    """Whether a frame shows nothing: black, white, or any one colour."""
    flat = frame.flatten(1).double()
    count = flat.shape[1]
    low, high = (
        flat.kthvalue(1 + round(share * (count - 1)), dim=1).values for share in CONTRAST_BETWEEN
    )
    return float((high - low).max()) < LEAST_CONTRAST


def _why_none_placed(matches: FrameMatches) -> NotAvailable:
    features = matches.num_features()
    total = len(features)
    poor = sum(count < LEAST_FEATURES for count in features)
    if poor > total - LEAST_FRAMES:
        return NotAvailable(
            f"structure from motion found fewer than {LEAST_FEATURES} features in {poor} of {total} frames: they"
            " are too small or too smooth for it; the photometric camera error needs no features"
        )
    pairs = matches.num_verified_pairs(LEAST_FEATURES)
    if not pairs:
        return NotAvailable(
            f"structure from motion found no two of {total} frames that show the same things from cameras side by"
            " side: they do not overlap, or do not show one scene"
        )
    return NotAvailable(
        f"structure from motion matched {pairs} pairs of frames, but could place none in space: the camera hardly"
        " moves, only turns, or the frames contradict each other"
    )
