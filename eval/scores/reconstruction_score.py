"""The score of LaLRM: scenes from posed clips, on views given and on new ones, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from configs.errors import UserError
from data.durable_files import write_durably
from eval.pages.clip_pictures import compare_grid
from eval.pages.pictures import png_bytes
from eval.reconstruction import load_models
from eval.scores.score_report import print_scores, write_score_report
from eval.scores.score_run import (
    FORMAT,
    ScoreConfig,
    Scored,
    Told,
    picture_file,
    settings_sha256,
)
from eval.scores.scored_clips import open_scored_clips
from eval.scores.scoring import BaselineConfig, fit_time_ratio, new_view_psnr, score_clip, summarise
from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM
from models.perceptual import cached_backbone
from models.pretrained import weights_digest
from train.randomness import derive_seed

LINE_FORMAT = "2"
"""2: with MS-SSIM, LPIPS and floaters."""


class ReconstructionScoreConfig(ScoreConfig):
    """A recipe of kind `reconstruction`."""

    kind: Literal["reconstruction"]
    autoencoder: Path = Field(TINY_AUTOENCODER, description="weights folder")
    lalrm: Path = Field(TINY_LALRM, description="weights folder")
    data: Path = Field(description="index of held-out seeds (.json), or a shard folder")
    num_clips: int | None = Field(None, gt=0, description="only so many, from the first")
    baselines: BaselineConfig = BaselineConfig()

    def create(self) -> ReconstructionScore:
        return ReconstructionScore(self)


class ReconstructionScore:
    """Implements `eval.scores.score_run.Score`; an item is a clip."""

    noun = "clip"
    lines_per_item = 1
    batch_size = 1

    def __init__(self, config: ReconstructionScoreConfig) -> None:
        self.config = config
        self.clips = open_scored_clips(config.data)
        self.num_items = min(config.num_clips or len(self.clips), len(self.clips))
        self.models = load_models(config.autoencoder, config.lalrm)
        backbone = cached_backbone("alex")
        self.identity = {
            FORMAT: LINE_FORMAT,
            "clips": self.clips.fingerprint,
            "autoencoder": weights_digest(config.autoencoder),
            "lalrm": weights_digest(config.lalrm),
            "lpips": "not available" if backbone is None else backbone.name,
            "settings": settings_sha256(config.baselines, config.seed),
        }

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        return [self._measure(number, pictures) for number in items]

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        psnr = new_view_psnr(lines[0])
        return f"{lines[0]['source']}: {psnr:.1f} dB on new views"

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        return {**summarise(lines), "fit_time_ratio": fit_time_ratio(seconds)}

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        pictures = {line["clip"]: picture_file(folder / "pictures", line["clip"]) for line in lines}
        write_score_report(folder / "report.html", summary, list(lines), pictures)

    def print_scores(self, summary: dict[str, Any]) -> None:
        print_scores(summary)

    def _measure(self, number: int, pictures: Path) -> Scored:
        """A clip's line and timings. A clip that cannot be read or used gets a line that says why."""
        try:
            clip, num_near = self.clips.load(number, self.config.threads)
            generator = torch.Generator().manual_seed(derive_seed(self.config.seed, number))
            result = score_clip(clip, self.models, self.config.baselines, generator, num_near)
        except UserError as error:
            source = f"{self.config.data}:{number}"
            return Scored([{"clip": number, "source": source, "error": str(error)}], {})
        picture = compare_grid(clip, result).draw(cell_width=192)
        write_durably(picture_file(pictures, number), png_bytes(picture))
        return Scored([{"clip": number, **result.score.line()}], result.score.seconds)
