"""The score of the video model: whether its videos follow their cameras, and what scenes are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from configs.errors import UserError
from data.clips import Clip
from eval.clips.groups import CameraCheck, ClipMeasuresConfig, Group, available
from eval.clips.pictures import write_result_pictures
from eval.images.set_metrics import FEATURES, SetMetrics, SetMetricsConfig
from eval.scores.score_run import FORMAT, ScoreConfig, Scored, Told, settings_sha256
from eval.scores.scored_clips import PathPairs
from eval.scores.video_groups import VideoGroups, summarise_video_groups
from eval.scores.video_score_pictures import write_scene_pictures
from eval.scores.video_score_report import print_scores, write_video_report
from eval.scores.video_scoring import (
    PATHS,
    PathFrames,
    generate_pairs,
    scene_measures,
    score_pair,
    scored_scenes,
    summarise,
)
from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM
from models.perceptual import cached_backbone
from models.pipeline import ImageToScenePipeline
from models.pipeline_files import PartFolders
from models.pretrained import weights_digest
from models.stopwatch import Stopwatch
from models.video.sampling import SamplingConfig, SamplingStep
from train.randomness import derive_seed

LINE_FORMAT = "3"
"""2: with the groups of `eval.scores.video_groups`; 3: 3D consistency with its held-out views in turn."""


class VideoScoreConfig(ScoreConfig, ClipMeasuresConfig):
    """A recipe of kind `video`. Its keys from `metrics` on are those of the kind `clips`."""

    kind: Literal["video"]
    autoencoder: Path = Field(TINY_AUTOENCODER, description="weights folder")
    base: Path = Field(description="weights folder of the video model's base")
    branches: Path | None = Field(
        None, description="weights folder of its camera branches; null: the bare base"
    )
    lalrm: Path = Field(TINY_LALRM, description="weights folder")
    data: Path = Field(
        description="index of held-out seeds (.json); each is a scene with two paths"
    )
    num_scenes: int | None = Field(None, gt=0, description="only so many, from the first")
    sampling: SamplingConfig = SamplingConfig()
    batch_size: int = Field(8, gt=0, description="scenes sampled at once, two videos each")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    metrics: tuple[Group, ...] = Field(
        ("images",),
        description="further measures of the generated videos; camera error and consistency take longer than all"
        " the rest",
    )
    check_cameras: CameraCheck = Field(
        "no", description="videos that do not follow their cameras are what this score is for"
    )
    sets: SetMetricsConfig = Field(SetMetricsConfig(), description="FID, KID and FVD")

    def create(self) -> VideoScore:
        return VideoScore(self)


class VideoScore:
    """Implements `eval.scores.score_run.Score`; an item is a scene, whose two paths have a line each."""

    noun = "scene"
    lines_per_item = len(PATHS)

    def __init__(self, config: VideoScoreConfig) -> None:
        self.config = config
        self.batch_size = config.batch_size
        self.pairs = PathPairs(config.data)
        self.num_items = min(config.num_scenes or len(self.pairs), len(self.pairs))
        folders = PartFolders(config.autoencoder, config.base, config.branches, config.lalrm)
        self.pipeline = ImageToScenePipeline.from_pretrained(parts=folders)
        self.pipeline.to(_device(config.device))
        self._check_size()
        self.groups = VideoGroups(config.measures().seeded(config.seed)) if config.metrics else None
        self.sets = None
        if "images" in config.metrics:
            self.sets = SetMetrics(config.sets, config.out / FEATURES, key="sets.")
        backbone = cached_backbone("alex")
        self.identity = {
            FORMAT: LINE_FORMAT,
            "clips": self.pairs.fingerprint,
            "autoencoder": weights_digest(config.autoencoder),
            "base": weights_digest(config.base),
            "branches": "none" if config.branches is None else weights_digest(config.branches),
            "lalrm": weights_digest(config.lalrm),
            "lpips": "not available" if backbone is None else backbone.name,
            **(self.groups.identity if self.groups else {}),
            **(self.sets.identity if self.sets else {}),
            "settings": settings_sha256(
                config.sampling,
                config.batch_size,
                config.seed,
                config.measures() if self.groups else None,
                config.sets if self.sets else None,
            ),
        }

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        watch = Stopwatch(self.pipeline.device)
        tell("making scenes")
        with watch("make scenes"):
            loaded = {number: self._load(number) for number in items}
        pairs = {n: pair for n, pair in loaded.items() if not isinstance(pair, UserError)}
        seeds = [derive_seed("video score", self.config.seed, number) for number in pairs]

        def on_step(step: SamplingStep) -> None:
            tell(f"sampling {2 * len(pairs)} videos: step {step.done} of {step.total}")

        lines = {n: self._failed(n, e) for n, e in loaded.items() if isinstance(e, UserError)}
        if pairs:
            generated = generate_pairs(
                list(pairs.values()), seeds, self.pipeline, self.config.sampling, watch, on_step
            )
            for number, pair in zip(pairs, generated, strict=True):
                tell(f"measuring {pair[0].clip.source}")
                with watch("measure"):
                    scores = score_pair(pair)
                with watch("pictures"):
                    write_scene_pictures(pictures, number, pair)
                lines[number] = [
                    {
                        **self._head(number, path),
                        "source": one.clip.source,
                        **score,
                        **self._further(number, path, one, pictures, watch, tell),
                    }
                    for path, one, score in zip(PATHS, pair, scores, strict=True)
                ]
        seconds = {name: round(value / len(items), 3) for name, value in watch.seconds.items()}
        return [Scored(lines[number], seconds) for number in items]

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        found = scene_measures((lines[0], lines[1]))
        return (
            f"{lines[0]['source'].rpartition('/')[0]}: {found['matched_minus_crossed_db']:.2f} dB nearer to"
            " its own path"
        )

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        scored = [line for scene in scored_scenes(lines) for line in scene]
        found = {**summarise(lines), **summarise_video_groups(scored)}
        if self.sets is not None:
            # Videos that can't be measured have no features.
            clips = [line["clip"] for line in scored if available(line.get("images"))]
            found["sets"] = self.sets.scores(clips, self.config.seed).line()
        return found

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        write_video_report(folder, summary, lines)

    def print_scores(self, summary: dict[str, Any]) -> None:
        print_scores(summary)

    def _further(
        self,
        number: int,
        path: str,
        one: PathFrames,
        pictures: Path,
        watch: Stopwatch,
        tell: Told,
    ) -> dict[str, Any]:
        if self.groups is None:
            return {}
        found, measured = self.groups.measure(one, watch, tell)
        if measured is not None:
            if self.sets is not None and measured.frames.reference is not None:
                with watch("set features"):
                    self.sets.add(
                        self._head(number, path)["clip"],
                        measured.frames.frames,
                        measured.frames.reference,
                        one.clip.source,
                        self.groups.of_video.protocol,
                    )
            with watch("pictures"):
                write_result_pictures(pictures, number, measured, f"_{path}")
        return found

    def _load(self, number: int) -> tuple[Clip, Clip] | UserError:
        try:
            return self.pairs.load(number, self.config.threads)
        except UserError as error:
            return error

    def _head(self, number: int, path: str) -> dict[str, Any]:
        return {"clip": len(PATHS) * number + PATHS.index(path), "scene": number, "path": path}

    def _failed(self, number: int, error: UserError) -> list[dict[str, Any]]:
        source = f"{self.config.data}:{number}"
        return [
            {**self._head(number, path), "source": f"{source}/{path}", "error": str(error)}
            for path in PATHS
        ]

    def _check_size(self) -> None:
        scene = self.pairs.index.scene
        if (scene.height, scene.width) != self.pipeline.frame_size:
            height, width = self.pipeline.frame_size
            raise UserError(
                f"{self.config.data}: frames are {scene.height}x{scene.width}, but {self.config.base} was"
                f" trained on {height}x{width}; use an index of that size"
            )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch finds no CUDA device; use device=cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
