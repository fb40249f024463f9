"""The score of clips: any method's frames, against the cameras asked for and, where there are any, real frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from configs.errors import UserError
from eval.clips.frames import FrameFiles, FrameOptions
from eval.clips.groups import ClipMeasuresConfig
from eval.clips.measures import ClipMeasures
from eval.clips.pictures import write_clip_pictures
from eval.clips.report import write_clip_report
from eval.clips.summary import headline, summarise_clips
from eval.clips.tables import print_scores
from eval.images.set_metrics import FEATURES, SetMetrics, SetMetricsConfig
from eval.scores.score_run import FORMAT, ScoreConfig, Scored, Told, settings_sha256
from models.stopwatch import Stopwatch

LINE_FORMAT = "2"
"""Counted up whenever the lines change their meaning: a folder of other lines is not gone on with.

2: 3D consistency with its held-out views in turn.
"""


class ClipScoreConfig(ScoreConfig, ClipMeasuresConfig):
    """A recipe of kind `clips`, which `score CLIP` makes of its options."""

    kind: Literal["clips"]
    data: Path = Field(description="a clip, or a folder of clips")
    cameras: Path | None = Field(None, description="file of cameras, or a folder of them by name")
    reference: Path | None = Field(None, description="real frames of the same views")
    input: Path | None = Field(None, description="the image that the model was given")
    size: tuple[int, int] | None = Field(
        None, description="height and width to resize and crop everything to; null: as it is"
    )
    fov: float | None = Field(
        None, gt=0, lt=180, description="vertical field of view [degrees], where the file has none"
    )
    sets: SetMetricsConfig = Field(SetMetricsConfig(), description="FID, KID and FVD")

    @field_validator("size")
    @classmethod
    def _size_is_positive(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError(f"found {list(value)}, expected a height and a width from 1 pixel")
        return value

    def create(self) -> ClipScore:
        return ClipScore(self)

    def options(self) -> FrameOptions:
        """What goes with the frames."""
        return FrameOptions(self.cameras, self.reference, self.input, self.size, self.fov)


class ClipScore:
    """Implements `eval.scores.score_run.Score`; an item is a clip."""

    noun = "clip"
    lines_per_item = 1
    batch_size = 1

    def __init__(self, config: ClipScoreConfig) -> None:
        self.config = config
        self.files = FrameFiles(config.data, config.options())
        self.num_items = len(self.files)
        self.measures = ClipMeasures(config.measures().seeded(config.seed))
        self.sets = None
        weights = dict(self.measures.identity)
        if "images" in config.metrics and config.reference is not None:
            self.sets = SetMetrics(config.sets, config.out / FEATURES, key="sets.")
            weights |= self.sets.identity
        self.identity = {
            FORMAT: LINE_FORMAT,
            "clips": self.files.fingerprint,
            **weights,
            "settings": settings_sha256(config.seed, config.measures(), config.sets),
        }

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        return [self._measure(number, pictures, tell) for number in items]

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        return headline(lines[0])

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        summary = summarise_clips(lines)
        if self.sets is not None:
            scored = [line["clip"] for line in lines if "error" not in line]
            summary["sets"] = self.sets.scores(scored, self.config.seed).line()
        return summary

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        write_clip_report(folder, summary, lines)

    def print_scores(self, summary: dict[str, Any]) -> None:
        print_scores(summary)

    def _measure(self, number: int, pictures: Path, tell: Told) -> Scored:
        """A clip's line and timings. A clip that can't be read or used gets a line that says why."""
        name, watch = self.files.name(number), Stopwatch(torch.device("cpu"))
        try:
            with watch("read"):
                frames = self.files.load(number)
            measured = self.measures.measure(frames, watch, tell)
            if self.sets is not None and frames.reference is not None:
                with watch("set features"):
                    self.sets.add(
                        number,
                        frames.frames,
                        frames.reference,
                        frames.source,
                        self.measures.protocol,
                    )
            with watch("pictures"):
                write_clip_pictures(pictures, number, measured)
        except UserError as error:
            why = str(error).removeprefix(f"{name}: ")
            return Scored([{"clip": number, "source": name, "error": why}], watch.seconds)
        return Scored([{"clip": number, **measured.line()}], watch.seconds)
