"""TSED: the share of neighbouring frames whose matched features agree with the commanded cameras.

Yu et al. 2023 (arXiv 2304.10700): a pair of neighbouring frames is consistent when it has at least `least_matches`
SIFT matches and the median of their symmetric epipolar distances lies below `threshold_px`. It needs no
reconstruction. Two things that it can't tell are reported beside it: a pair fails with too few matches whatever
its geometry, and a still picture satisfies any move without turning, since every point stays on its epipolar line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
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
from data.importers.posed_images import Progress
from eval.cameras.epipolar import matched_distances
from eval.scores.measured import Measured, NotAvailable, to_json


class TsedConfig(Config):
    """The paper's thresholds, which are for frames of 256x256."""

    threshold_px: float = Field(
        2.0, gt=0, description="pixels of the frames, whatever their size; see also the medians"
    )
    least_matches: int = Field(10, gt=0)
    matching: MatchConfig = MatchConfig()
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Tsed:
    """TSED of one clip, and what it is made of.

    num_matches, median_px: of each pair (i, i + 1): features that match, and the median of their distances; None
        where there are too few.
    moved_px: median over all matches of how far a feature moved from one frame to the next; None without matches.
    """

    threshold_px: float
    least_matches: int
    num_matches: tuple[int, ...]
    median_px: tuple[float | None, ...]
    moved_px: float | None

    @property
    def consistent(self) -> int:
        """How many pairs are consistent."""
        return sum(value is not None and value < self.threshold_px for value in self.median_px)

    @property
    def unmatched(self) -> int:
        """How many pairs have too few matches; they count as inconsistent."""
        return sum(value is None for value in self.median_px)

    @property
    def percent(self) -> Measured:
        """Consistent pairs in percent of all; not available where no pair has enough matches to be judged."""
        total = len(self.median_px)
        if total == 0:
            return NotAvailable("TSED compares neighbouring frames; this clip has only one")
        if self.unmatched == total:
            return NotAvailable(
                f"none of {total} pairs of neighbouring frames has {self.least_matches} matching features: the frames"
                " are too small or too smooth, or show nothing in common"
            )
        return 100 * self.consistent / total

    @property
    def typical_px(self) -> Measured:
        """Median over the judged pairs of their median distance [px]."""
        judged = [value for value in self.median_px if value is not None]
        if not judged:
            return self.percent
        return float(torch.tensor(judged, dtype=torch.float64).quantile(0.5))

    def line(self) -> dict[str, Any]:
        """Plain JSON."""
        return to_json(
            {
                "percent": self.percent,
                "pairs": len(self.median_px),
                "consistent": self.consistent,
                "unmatched": self.unmatched,
                "typical_px": self.typical_px,
                "moved_px": self.moved_px,
                "median_px": self.median_px,
                "num_matches": self.num_matches,
            }
        )


def tsed(
    frames: Float[Tensor, "t 3 h w"],
    cameras: Cameras,
    config: TsedConfig,
    *,
    matches: FrameMatches | None = None,
    progress: Progress | None = None,
) -> Tsed:
    """TSED of frames in [0, 1] against the commanded cameras.

    matches: those of `match_frames` on the same frames, neighbours among the pairs.

    The same frames give the same numbers. Raises UserError where frames and cameras differ in number or size.
    """
    check_cameras_fit(frames, cameras)
    pairs = [(number, number + 1) for number in range(len(frames) - 1)]
    if not pairs:
        return Tsed(config.threshold_px, config.least_matches, (), (), None)
    if matches is None:
        with match_frames(
            frames, cameras, config.matching, pairs=pairs, seed=config.seed, progress=progress
        ) as found:
            return tsed(frames, cameras, config, matches=found)
    counts: list[int] = []
    medians: list[float | None] = []
    moves: list[Tensor] = []
    for (first, second), points in zip(pairs, matches.matches(pairs), strict=True):
        counts.append(len(points[0]))
        moves.append((points[0] - points[1]).norm(dim=-1))
        medians.append(None)
        if len(points[0]) >= config.least_matches:
            distances = matched_distances(cameras.select(first), cameras.select(second), points)
            medians[-1] = float(distances.quantile(0.5))
    moved = torch.cat(moves)
    return Tsed(
        threshold_px=config.threshold_px,
        least_matches=config.least_matches,
        num_matches=tuple(counts),
        median_px=tuple(medians),
        moved_px=float(moved.quantile(0.5)) if len(moved) else None,
    )
