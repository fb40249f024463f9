"""Further groups of measures on generated videos, as `score CLIP` has them: images, camera error, 3D consistency.

Camera error is measured on the true frames too: what is found there is the measure's own error, not the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from configs.errors import UserError
from eval.clips.frames import ScoredFrames
from eval.clips.groups import ON_CAMERA_FRAMES, ClipMeasuresConfig
from eval.clips.measures import ClipMeasures, MeasuredClip, Tell
from eval.clips.summary import summarise_groups
from eval.scores.measured import NotAvailable, to_json
from eval.scores.video_scoring import VIDEO, PathFrames
from models.stopwatch import Stopwatch

BOUNDS = "bounds"
TRUTH = "true_frames"


@dataclass
class VideoGroups:
    """Measures generated videos one after another; without groups in `config` there is nothing to do.

    Raises UserError where a file of weights that the configuration names is missing or wrong.
    """

    config: ClipMeasuresConfig
    of_video: ClipMeasures = field(init=False)
    of_truth: ClipMeasures | None = field(init=False)

    def __post_init__(self) -> None:
        self.of_video = ClipMeasures(self.config)
        shared = tuple(name for name in self.config.metrics if name in ON_CAMERA_FRAMES)
        truth = self.config.model_copy(update={"metrics": shared})
        self.of_truth = ClipMeasures(truth) if shared else None

    @property
    def identity(self) -> dict[str, str]:
        """The weights that the numbers depend on."""
        return self.of_video.identity

    def measure(
        self, one: PathFrames, watch: Stopwatch, tell: Tell
    ) -> tuple[dict[str, Any], MeasuredClip | None]:
        """What a path's line gets beside its scores, and what is needed to show it.

        A video that can't be measured at all, such as one with black frames, has no group available.
        """
        clip = one.clip
        path, cameras = slice(clip.num_path_frames), clip.cameras.to(torch.float64)
        truth = clip.frames[path]
        video = ScoredFrames(clip.source, one.frames[VIDEO][path], cameras, truth, truth[0])
        found, measured = _groups(self.of_video, video, watch, tell)
        if self.of_truth is not None:
            shown = ScoredFrames(f"{clip.source}, true frames", truth, cameras, None, None)
            found[BOUNDS] = {TRUTH: _groups(self.of_truth, shown, watch, tell)[0]}
        return found, measured


def summarise_video_groups(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The groups' means over the videos of scored lines; those on true frames under `bounds`."""
    bounds = [line[BOUNDS][TRUTH] for line in lines if BOUNDS in line]
    found = summarise_groups(lines)
    return {**found, BOUNDS: {TRUTH: summarise_groups(bounds)}} if bounds else found


def _groups(
    measures: ClipMeasures, frames: ScoredFrames, watch: Stopwatch, tell: Tell
) -> tuple[dict[str, Any], MeasuredClip | None]:
    try:
        measured = measures.measure(frames, watch, tell)
    except UserError as error:
        why = to_json(NotAvailable(str(error).removeprefix(f"{frames.source}: ")))
        return dict.fromkeys(measures.config.metrics, why), None
    return dict(measured.groups), measured
