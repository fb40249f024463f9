"""The kinds of score that a recipe can name as `kind`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.loader import load_config, load_config_by_kind
from eval.clips.score import ClipScoreConfig
from eval.scores.reconstruction_score import ReconstructionScoreConfig
from eval.scores.refinement_score import RefinementScoreConfig
from eval.scores.score_run import Score
from eval.scores.video_score import VideoScoreConfig

KINDS: dict[
    str,
    type[ClipScoreConfig | ReconstructionScoreConfig | RefinementScoreConfig | VideoScoreConfig],
] = {
    "clips": ClipScoreConfig,
    "reconstruction": ReconstructionScoreConfig,
    "refinement": RefinementScoreConfig,
    "video": VideoScoreConfig,
}


def create_score(recipe: Path, overrides: Sequence[str]) -> Score:
    """What a recipe scores, its models loaded; raises UserError where the recipe or a model is wrong."""
    return load_config_by_kind(recipe, overrides, KINDS).create()


def create_clip_score(overrides: Sequence[str]) -> Score:
    """The score of clips that the keys and values of a recipe of kind `clips` describe; raises as above."""
    return load_config(None, overrides, ClipScoreConfig).create()
