"""The consistency score tried on clips that were changed in known amounts: one case a line, resumable.

A case is a clip, a perturbation and its level, scored. Cases of the ladder fill the tables; those of the ranking
are scored with the default fit and with one many times as long, on larger frames, to see that both rank alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from configs.errors import UserError
from configs.loader import Config
from data.clips import Clip
from eval.consistency.measure import ConsistencyConfig, measure_consistency
from eval.consistency.perturbations import PERTURBATIONS, perturb
from eval.images.image_scores import ImageMetrics
from eval.scores.measured import NotAvailable
from eval.scores.score_run import FORMAT, Scored, Told, settings_sha256
from eval.scores.scored_clips import ProceduralClips, read_index
from eval.trials.captures import find_captures, read_capture_views
from eval.trials.claims import print_claims
from eval.trials.page import write_page
from eval.trials.trial import TrialConfig

Group = Literal["ladder", "ranking"]
LINE_FORMAT = "2"
CLEAN = "clean"
BOUNDED = (CLEAN, "recoloured", "blurred", "still")
"""Kinds whose contrast or detail differs, so that only the gain on shuffled poses compares them."""


class RankingConfig(Config):
    """The comparison of the default fit with a much longer one."""

    height: int = Field(128, ge=16)
    width: int = Field(192, ge=16)
    num_scenes: int = Field(1, gt=0, description="procedural scenes, from the first")
    factor: int = Field(10, gt=1, description="so many times the passes")
    cases: tuple[tuple[str, int], ...] = Field(
        (
            (CLEAN, 0),
            ("shift", 1),
            ("shift", 3),
            ("warp", 1),
            ("warp", 3),
            ("swap", 1),
            ("swap", 3),
            ("flicker", 1),
            ("flicker", 3),
        ),
        description="perturbations and levels that are ranked",
    )

    @field_validator("cases")
    @classmethod
    def _cases_are_known(cls, value: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        for kind, level in value:
            if kind != CLEAN:
                _check_kind(kind)
            levels = [0] if kind == CLEAN else range(1, 1 + len(PERTURBATIONS[kind].strengths))
            if level not in levels:
                raise ValueError(f"{kind}: level {level}; expected one of {list(levels)}")
        return value


class ConsistencyTrialConfig(TrialConfig):
    """What the validation of the consistency score runs over."""

    capture_size: tuple[int, int] = Field((64, 96), description="height and width of their frames")
    capture_views: int = Field(24, ge=5, description="of each capture, the first along its path")
    kinds: tuple[str, ...] = Field(tuple(PERTURBATIONS), description="perturbations that are tried")
    consistent_levels: tuple[int, ...] = Field((1, 5), description="of what is to change nothing")
    easy_levels: tuple[int, ...] = Field((3, 5), description="of what the score alone can't see")
    score: ConsistencyConfig = ConsistencyConfig()
    ranking: RankingConfig | None = RankingConfig()

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            _check_kind(kind)
        return value


@dataclass(frozen=True)
class Case:
    """One clip, changed in one way, scored in one way. factor: times the default number of passes."""

    group: Group
    clip: int
    kind: str
    level: int
    factor: int = 1


class ConsistencyTrial:
    """Implements `eval.scores.score_run.Score`; an item is a case."""

    noun = "case"
    lines_per_item = 1
    batch_size = 1

    def __init__(self, config: ConsistencyTrialConfig) -> None:
        self.config = config
        self.index = read_index(config.data)
        count = len(self.index.seeds)
        self.num_scenes = min(config.num_scenes or count, count)
        self.captures = find_captures(config.captures)
        self.images = ImageMetrics(config.score.images)
        self.cases = self._cases()
        self.num_items = len(self.cases)
        self.identity = self._identity()
        self._load = lru_cache(maxsize=1)(self._load_uncached)

    @property
    def names(self) -> list[str]:
        """The clips' names, by number."""
        seeds = self.index.seeds[: self.num_scenes]
        return [f"scene {seed}" for seed in seeds] + [path.name for path in self.captures.paths]

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        return [self._measure(self.cases[number], tell) for number in items]

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        line = lines[0]
        return f"{line['source']}, {line['kind']} {line['level']}: {line['psnr']:.2f} dB"

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        from eval.consistency.trial_summary import summarise_trial

        if all("error" in line for line in lines):
            raise UserError("no case could be scored; the messages above say why")
        content = (self.config.out / "seconds.jsonl").read_text(encoding="utf-8")
        spent = {row["item"]: row["seconds"] for row in map(json.loads, content.splitlines())}
        found = summarise_trial(
            [{**line, "seconds": spent.get(item, {})} for item, line in enumerate(lines)]
        )
        return {**found, "captures_left_out": self.captures.left_out}

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        from eval.consistency.trial_report import trial_markdown

        write_page(folder, self.config.report, trial_markdown(summary), summary)

    def print_scores(self, summary: dict[str, Any]) -> None:
        print_claims(summary["claims"])

    def _identity(self) -> dict[str, str]:
        config = self.config
        kinds = {
            kind: [repr(PERTURBATIONS[kind].strengths), PERTURBATIONS[kind].description]
            for kind in config.kinds
        }
        return {
            FORMAT: LINE_FORMAT,
            "scenes": ProceduralClips(self.index).fingerprint,
            "captures": self.captures.sha256,
            "cases": settings_sha256(kinds, [repr(case) for case in self.cases]),
            "settings": settings_sha256(
                config.score, config.seed, config.capture_size, config.capture_views
            ),
            **self.images.identity,
        }

    def _cases(self) -> list[Case]:
        config = self.config
        steps: list[tuple[str, int]] = [(CLEAN, 0)]
        for kind in config.kinds:
            perturbation = PERTURBATIONS[kind]
            levels: Sequence[int] = range(1, len(perturbation.strengths) + 1)
            if perturbation.family in ("consistent", "easy"):
                chosen = (
                    config.consistent_levels
                    if perturbation.family == "consistent"
                    else config.easy_levels
                )
                levels = [level for level in levels if level in chosen]
            steps += [(kind, level) for level in levels]
        cases = []
        if (ranking := config.ranking) is not None:
            cases += [
                Case("ranking", clip, kind, level, factor)
                for clip in range(min(ranking.num_scenes, self.num_scenes))
                for factor in (1, ranking.factor)
                for kind, level in ranking.cases
            ]
        # Scenes and captures in turn, so that what is there of an unfinished run is of both.
        clips = range(self.num_scenes + len(self.captures.paths))
        in_turn = sorted(clips, key=lambda clip: (clip % self.num_scenes, clip))
        cases += [Case("ladder", clip, kind, level) for clip in in_turn for kind, level in steps]
        return cases

    def _measure(self, case: Case, tell: Told) -> Scored:
        source = self.names[case.clip]
        name = f"{source}, {case.kind} {case.level}" + (", long" if case.factor > 1 else "")
        head = {"clip": case.clip, "source": source, **_described(case)}
        tell(name)
        wall, cpu = time.monotonic(), time.process_time()
        try:
            clip = unchanged = self._load(case.clip, case.group)
            if case.kind != CLEAN:
                clip = perturb(unchanged, case.kind, case.level, self.config.seed)
            result = measure_consistency(clip, self._score_config(case), images=self.images)
        except UserError as error:
            return Scored([{**head, "source": name, "error": str(error)}], {})
        if isinstance(result, NotAvailable):
            return Scored([{**head, "source": name, "error": result.why}], {})
        score = result.score
        line = score.line()
        spent = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
        kept = ("psnr", "ssim", "gain_db", "copy_psnr", "overlap", "travel", "size", "num_views")
        numbers = {
            "seed_psnr": line["seed_psnr"],
            "squared_change": round(float((clip.frames - unchanged.frames).square().mean()), 8),
            "held_out_psnr": round(score.generated.held_out_psnr, 4),
            "input_psnr": line["input"].get("psnr"),
            "fitted_psnr": line["fitted"]["psnr"],
            "sharpness": line["sharpness"]["generated"],
            "motion": line["motion"]["generated"],
        }
        row = {**head, **{key: line[key] for key in kept}, **numbers, "remarks": line["remarks"]}
        return Scored([row], spent)

    def _score_config(self, case: Case) -> ConsistencyConfig:
        config = self.config.score
        if case.group == "ranking":
            fit = config.fit.model_copy(update={"passes": config.fit.passes * case.factor})
            return config.model_copy(
                update={"fit": fit, "input_weight": 0.0, "lower_bound": False, "seeds": (0,)}
            )
        return config.model_copy(update={"lower_bound": case.kind in BOUNDED})

    def _load_uncached(self, number: int, group: Group) -> Clip:
        config = self.config
        if number < self.num_scenes:
            index = self.index
            if group == "ranking":
                assert config.ranking is not None
                size = {"height": config.ranking.height, "width": config.ranking.width}
                index = index.model_copy(update={"scene": index.scene.model_copy(update=size)})
            clip, _ = ProceduralClips(index).load(number, config.threads)
            return clip.select(range(clip.num_path_frames))
        return read_capture_views(
            self.captures.paths[number - self.num_scenes], config.capture_size, config.capture_views
        )


def _described(case: Case) -> dict[str, Any]:
    strength = 0.0 if case.kind == CLEAN else PERTURBATIONS[case.kind].strengths[case.level - 1]
    family = CLEAN if case.kind == CLEAN else PERTURBATIONS[case.kind].family
    return {
        "group": case.group,
        "family": family,
        "kind": case.kind,
        "level": case.level,
        "strength": strength,
        "factor": case.factor,
    }


def _check_kind(kind: str) -> None:
    if kind not in PERTURBATIONS:
        raise ValueError(f"no perturbation {kind!r}; there are {', '.join(PERTURBATIONS)}")
