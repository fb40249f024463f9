"""The recipe kind `refinement`: what each way of refining makes of scenes from one image, against the truth.

An item is a held-out scene. The pipeline makes a scene of its first frame along its own path; every setting of the
recipe refines that scene; and all are rendered at the true cameras. What was held out of the input decides, as in the
command `refine`, which scene each setting keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from data.clips import Clip
from data.durable_files import write_durably
from eval.images.metrics import psnr, ssim
from eval.pages.clip_pictures import spread
from eval.pages.html_report import Report
from eval.pages.pictures import draw_grid, png_bytes
from eval.reconstruction import render_scene
from eval.scores.image_to_scene import GROUPS, path_of, photo_of
from eval.scores.measured import DIGITS
from eval.scores.report_parts import add_failed, add_making
from eval.scores.score_run import (
    FORMAT,
    ScoreConfig,
    Scored,
    Told,
    picture_file,
    settings_sha256,
)
from eval.scores.scored_clips import open_scored_clips
from models.bundled_weights import TINY_PIPELINE
from models.gaussians import Gaussians
from models.generated_scene import GeneratedScene
from models.pipeline import ImageToScenePipeline
from models.pretrained import weights_digest
from models.priors.video import VideoPrior
from models.stopwatch import Stopwatch
from models.video.clip_chain import median_depth
from models.video.guidance import GuidanceConfig
from train.distillation.cameras import CameraSampler
from train.distillation.evidence import gather_evidence, held_out_psnr
from train.distillation.refine import RefineConfig, Refinement
from train.randomness import derive_seed

LINE_FORMAT = "2"
BEFORE = "before"
NUM_SHOWN = 4
WORSE_DB = 0.2
"""A scene counts as made worse from here on."""
TEXT = (
    "PSNR (dB) / SSIM against the true views, means over scenes. Kept: what the command writes, since the refined scene"
    " is taken only where it shows what was held out of its input better. Worse: scenes that the kept scene has more"
    f" than {WORSE_DB:g} dB less on than the one before, over all views."
)


class RefinementSetting(Config):
    """One way of refining. frames: the generated video is shown too, not the image alone; it always judges."""

    prior: Literal["video", "none"] = "video"
    frames: bool = False
    guidance: float | None = Field(
        None,
        ge=0,
        description="of image and cameras, for the video prior; by default the pipeline's own",
    )
    refine: RefineConfig = RefineConfig()


class RefinementScoreConfig(ScoreConfig):
    """A recipe of kind `refinement`."""

    kind: Literal["refinement"]
    data: Path = Field(description="index of held-out seeds (.json)")
    num_scenes: int | None = Field(None, gt=0, description="only so many, from the first")
    pipeline: Path = Field(TINY_PIPELINE, description="folder with pipeline.json")
    settings: dict[str, RefinementSetting] = Field(min_length=1)
    pictures_of: str | None = Field(None, description="the setting that pictures show; the first")

    @model_validator(mode="after")
    def _names_fit(self) -> RefinementScoreConfig:
        if BEFORE in self.settings:
            raise ValueError(
                f"settings: {BEFORE!r} is the scene that is refined; name it otherwise"
            )
        if self.pictures_of is not None and self.pictures_of not in self.settings:
            known = ", ".join(self.settings)
            raise ValueError(
                f"pictures_of: there is no setting {self.pictures_of!r}; there are {known}"
            )
        return self

    def create(self) -> RefinementScore:
        return RefinementScore(self)


class RefinementScore:
    """Implements `eval.scores.score_run.Score`; an item is a scene."""

    noun = "scene"
    lines_per_item = 1
    batch_size = 1

    def __init__(self, config: RefinementScoreConfig) -> None:
        self.config = config
        self.clips = open_scored_clips(config.data)
        self.num_items = min(config.num_scenes or len(self.clips), len(self.clips))
        self.pipeline = ImageToScenePipeline.from_pretrained(config.pipeline)
        self.identity = {
            FORMAT: LINE_FORMAT,
            "clips": self.clips.fingerprint,
            "pipeline": weights_digest(config.pipeline),
            "settings": settings_sha256(
                config.seed, *(s for pair in config.settings.items() for s in pair)
            ),
        }

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        return [self._measure(number, pictures, tell) for number in items]

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        line = lines[0]
        best = max(line["methods"], key=lambda name: line["methods"][name]["psnr"]["path"])
        return f"{line['source']}: {best} is best, {line['methods'][best]['psnr']['path']:.2f} dB"

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        return summarise(lines)

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        report = Report("Refinement scores", f"{summary['clips']} scenes, each from one image.")
        report.section("Before and after", TEXT)
        report.table(*table_rows(summary))
        report.section("Every scene")
        scored = [line for line in lines if "error" not in line]
        for line in sorted(scored, key=lambda line: -largest_gain(line)):
            report.image(
                picture_file(folder / "pictures", line["clip"]),
                f"{line['source']}: at best {largest_gain(line):+.2f} dB along the path",
            )
        add_failed(report, summary, "Scenes")
        add_making(report, summary, self.noun)
        report.write(folder / "report.html")

    def print_scores(self, summary: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.table import Table

        header, rows = table_rows(summary)
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        Console().print(table)

    def _measure(self, number: int, pictures: Path, tell: Told) -> Scored:
        watch = Stopwatch(self.pipeline.device)
        try:
            with watch("make scene"):
                clip, _ = self.clips.load(number, self.config.threads)
            with watch("generate"):
                seed = derive_seed("refinement score", self.config.seed, number)
                (made,) = self.pipeline.generate([photo_of(clip)], [path_of(clip)], [seed])
            scenes = {BEFORE: made.gaussians}
            methods: dict[str, Any] = {BEFORE: scores_of(made.gaussians, clip)}
            for name, setting in self.config.settings.items():
                tell(f"refining {clip.source} by {name}")
                with watch(f"refine, {name}"):
                    scenes[name], held_out = self._refined(clip, made, setting, seed)
                keeps = held_out[1] >= held_out[0]
                methods[name] = {
                    **scores_of(scenes[name], clip),
                    "held_out": [round(value, DIGITS) for value in held_out],
                    "keeps_refined": keeps,
                }
        except UserError as error:
            source = f"{self.config.data}:{number}"
            return Scored([{"clip": number, "source": source, "error": str(error)}], {})
        self._draw(clip, scenes, picture_file(pictures, number))
        line = {"clip": number, "source": clip.source, "methods": methods}
        return Scored([line], {name: round(value, 3) for name, value in watch.seconds.items()})

    def _refined(
        self, clip: Clip, made: GeneratedScene, setting: RefinementSetting, seed: int
    ) -> tuple[Gaussians, tuple[float, float]]:
        """A setting's scene, and what was held out before and after [dB]."""
        config, device = setting.refine, self.pipeline.device
        photo, path = photo_of(clip), path_of(clip)
        frames = torch.cat([photo.frame[None], made.video[1:].cpu()])
        evidence = gather_evidence(frames, path, config.evidence, seed, not setting.frames)
        evidence = evidence.to(device)
        depth = median_depth(made.gaussians, path.select(0).to(device)) or 1.0
        prior = None
        if setting.prior == "video":
            guidance = self.pipeline.sampling.guidance
            if setting.guidance is not None:
                guidance = GuidanceConfig(image=setting.guidance, camera=setting.guidance)
            prior = VideoPrior(self.pipeline, photo.frame, depth, guidance)
        sampler = CameraSampler(path, depth, config.cameras)
        refinement = Refinement(made.gaussians, sampler, evidence, prior, config, seed)
        refined = refinement.run()
        before, after = (
            held_out_psnr(scene, evidence, config.background) for scene in (made.gaussians, refined)
        )
        return refined, (before, after)

    def _draw(self, clip: Clip, scenes: Mapping[str, Gaussians], file: Path) -> None:
        shown = self.config.pictures_of or next(iter(self.config.settings))
        views = spread(range(1, clip.num_frames), NUM_SHOWN)
        cameras = clip.cameras.select(views).to(self.pipeline.device)
        rows: list[list[Float[Tensor, "3 h w"]]] = [[clip.frames[view] for view in views]]
        for name in (BEFORE, shown):
            rows.append(list(render_scene(scenes[name], cameras).frames.cpu()))
        labels = ["truth", BEFORE, shown]
        grid = draw_grid(rows, labels, [f"view {view}" for view in views], 192)
        write_durably(file, png_bytes(grid))


def scores_of(scene: Gaussians, clip: Clip) -> dict[str, dict[str, float]]:
    """PSNR [dB] and SSIM of a scene in each group of views, the first, which went in, left out."""
    drawn = render_scene(scene, clip.cameras.to(scene.means.device)).frames.cpu()
    groups = {
        "path": list(range(1, clip.num_path_frames)),
        "beside": list(range(clip.num_path_frames, clip.num_frames)),
    }
    return {
        name: {
            group: round(float(measure(drawn[views], clip.frames[views]).mean()), DIGITS)
            for group, views in groups.items()
            if views
        }
        for name, measure in (("psnr", psnr), ("ssim", ssim))
    }


def kept(methods: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The scores of what the command would write."""
    return methods[name] if methods[name].get("keeps_refined", True) else methods[BEFORE]


def overall_gain(methods: Mapping[str, Any], name: str) -> float:
    """PSNR of what is kept minus that before, the mean over the groups of views [dB]."""
    found = kept(methods, name)["psnr"]
    return sum(found[group] - methods[BEFORE]["psnr"][group] for group in found) / len(found)


def largest_gain(line: Mapping[str, Any]) -> float:
    """Of all settings' refined scenes, along the path [dB]."""
    methods = line["methods"]
    before = methods[BEFORE]["psnr"]["path"]
    return max(methods[name]["psnr"]["path"] - before for name in methods if name != BEFORE)


def summarise(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over scenes of every setting, refined and kept, and how many scenes it makes worse."""
    rows = [line["methods"] for line in lines if "error" not in line]
    if not rows:
        raise UserError("no scene could be scored; the messages above say why")
    methods: dict[str, Any] = {BEFORE: _means(row[BEFORE] for row in rows)}
    for name in rows[0]:
        if name == BEFORE:
            continue
        gains = [overall_gain(row, name) for row in rows]
        methods[name] = {
            "refined": _means(row[name] for row in rows),
            "kept": _means(kept(row, name) for row in rows),
            "kept_share": sum(row[name]["keeps_refined"] for row in rows) / len(rows),
            "num_worse": sum(gain < -WORSE_DB for gain in gains),
            "smallest_gain": round(min(gains), DIGITS),
            "largest_gain": round(max(gains), DIGITS),
        }
    return {"methods": methods, "clips": len(rows)}


def table_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: before, then each setting's refined scene and what it keeps."""
    header = ["", *GROUPS.values(), "kept in", "worse", "gain from to"]
    methods = summary["methods"]
    rows = [[BEFORE, *_cells(methods[BEFORE]), "", "", ""]]
    for name, found in methods.items():
        if name == BEFORE:
            continue
        rows.append([f"{name}: refined", *_cells(found["refined"]), "", "", ""])
        share, worse = f"{found['kept_share']:.0%}", f"{found['num_worse']}"
        gain = f"{found['smallest_gain']:+.2f} {found['largest_gain']:+.2f} dB"
        rows.append([f"{name}: kept", *_cells(found["kept"]), share, worse, gain])
    return header, rows


def _cells(scores: Mapping[str, Any]) -> list[str]:
    return [
        f"{scores['psnr'][group]:.2f} / {scores['ssim'][group]:.3f}"
        if group in scores["psnr"]
        else "–"
        for group in GROUPS
    ]


def _means(scores: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    rows = list(scores)
    return {
        metric: {
            group: round(sum(row[metric][group] for row in rows) / len(rows), DIGITS)
            for group in rows[0][metric]
        }
        for metric in ("psnr", "ssim")
    }
