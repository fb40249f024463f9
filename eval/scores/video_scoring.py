"""The scores of one scene with two paths: generated videos, the scenes made of them, and what they compare with.

All methods are held against the same truth by the same measures (`train.camera_agreement`, PSNR, SSIM, LPIPS),
over all frames but the first, which goes in. Numbers are kept per frame, so that means over other frames can
be taken later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.clips import Clip
from eval.images import metrics
from eval.scores import baselines
from eval.scores.image_to_scene import method_frames, path_of, photo_of
from eval.scores.measured import DIGITS
from models.pipeline import ImageToScenePipeline
from models.stopwatch import Stopwatch
from models.video.sampling import OnStep, SamplingConfig
from train.camera_agreement import (
    CameraAgreement,
    camera_agreement,
    frame_psnr,
    motion_candidates,
)
from train.camera_agreement import summarise as summarise_agreement

VIDEO, SCENE = "video", "scene"
VIDEO_BASELINES = {
    "still": "the image, repeated",
    "autoencoder": "true frames through the autoencoder",
    "true_frames": "true frames",
}
SCENE_BASELINES = {
    "still": VIDEO_BASELINES["still"],
    "median_depth": "the image at its median depth",
    "ceiling": "LaLRM given the true frames",
}
METHODS = {
    VIDEO: "generated video",
    SCENE: "scene from one image",
    **SCENE_BASELINES,
    **VIDEO_BASELINES,
}
PATHS = ("own", "mirrored")
FRAME_MEASURES = ("psnr", "crossed_psnr", "ssim", "lpips")
"""What a line has per frame; `crossed_psnr` is against the truth of the other path."""


@dataclass(frozen=True)
class PathFrames:
    """One path of a scene: the true clip, and every method's pictures of it, on the CPU."""

    clip: Clip
    frames: dict[str, Float[Tensor, "t 3 h w"]]
    num_gaussians: int


@torch.no_grad()
def generate_pairs(
    pairs: Sequence[tuple[Clip, Clip]],
    seeds: Sequence[int],
    pipeline: ImageToScenePipeline,
    sampling: SamplingConfig,
    watch: Stopwatch,
    on_step: OnStep | None = None,
) -> list[tuple[PathFrames, PathFrames]]:
    """Every method's frames of several scenes, sampled at once; both paths of a scene start from one noise.

    Raises UserError where the clips do not suit the pipeline.
    """
    clips = [clip for pair in pairs for clip in pair]
    scenes = pipeline.generate(
        [photo_of(clip) for clip in clips],
        [path_of(clip) for clip in clips],
        [seed for seed in seeds for _ in PATHS],
        sampling=sampling,
        on_step=on_step,
    )
    for stage, seconds in scenes[0].seconds.items():
        watch.seconds[stage] = watch.seconds.get(stage, 0.0) + seconds
    drawn = []
    with watch("baselines and renders"):
        for clip, scene in zip(clips, scenes, strict=True):
            frames = method_frames(clip, scene, pipeline.reconstruct(clip))
            frames["true_frames"] = clip.frames
            frames["autoencoder"] = baselines.autoencoder_round_trip(
                pipeline.autoencoder, clip.frames.to(pipeline.device)
            ).cpu()
            ordered = {method: frames[method] for method in METHODS}
            drawn.append(PathFrames(clip, ordered, scene.gaussians.num_gaussians))
    return list(zip(drawn[::2], drawn[1::2], strict=True))


def score_pair(pair: tuple[PathFrames, PathFrames]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores of a scene's own and mirrored path, by measure and method.

    motion_share (None where the camera does not move) and chose_own are numbers, FRAME_MEASURES have one value a
    frame; lpips is None where its weights are missing.
    """
    truth = (pair[0].clip, pair[1].clip)
    candidates = (motion_candidates(truth[0]), motion_candidates(truth[1]))
    agreements = {
        method: camera_agreement(
            truth, (pair[0].frames[method], pair[1].frames[method]), candidates
        )
        for method in METHODS
    }
    own, mirrored = (
        {
            "motion_share": {m: _number(a.motion_share[n]) for m, a in agreements.items()},
            "chose_own": {m: a.chose_own[n] for m, a in agreements.items()},
            **_per_frame(pair[n].frames, truth[n], truth[1 - n]),
            "num_gaussians": pair[n].num_gaussians,
        }
        for n in range(len(PATHS))
    )
    return own, mirrored


def summarise(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over scenes, paths and frames, from the clips' lines, own and mirrored in turns.

    The generated video's measures stand at the top, with those of what bounds them under `baselines`; those of
    the scenes' renders are under `image_to_scene`, with baselines of their own. `standard_error` is over scenes.
    `by_frame` has the means of each frame. None where there is no value.
    """
    scenes = list(scored_scenes(lines))
    if not scenes:
        raise UserError("no scene could be scored; the messages above say why")
    measured = {method: _method_means(scenes, method) for method in METHODS}
    lacking = scenes[0][0]["lpips"] is None
    return {
        **measured[VIDEO],
        "baselines": {name: measured[name] for name in VIDEO_BASELINES},
        "image_to_scene": {
            **measured[SCENE],
            "baselines": {name: measured[name] for name in SCENE_BASELINES},
        },
        "by_frame": {
            measure: None
            if lacking and measure == "lpips"
            else {method: _frame_means(scenes, measure, method) for method in METHODS}
            for measure in FRAME_MEASURES
        },
        "num_gaussians": round(fmean(line["num_gaussians"] for scene in scenes for line in scene)),
        "not_available": {"lpips": metrics.lpips_hint()} if lacking else {},
        "scenes": len(scenes),
        "clips": len(PATHS) * len(scenes),
    }


Scene = tuple[dict[str, Any], dict[str, Any]]


def scored_scenes(lines: Sequence[dict[str, Any]]) -> Iterator[Scene]:
    """The lines of each scene that could be scored: own path, mirrored path."""
    for own, mirrored in zip(lines[::2], lines[1::2], strict=True):
        if "error" not in own:
            yield own, mirrored


def scene_measures(scene: Scene, method: str = VIDEO) -> dict[str, float | None]:
    """A method's measures on one scene, the mean of both paths."""
    return {
        **{k: _number(v) for k, v in summarise_agreement([_agreement(scene, method)]).items()},
        "ssim": _rounded(fmean, _clip_means(scene, "ssim", method)),
        "lpips": _rounded(fmean, _clip_means(scene, "lpips", method)),
    }


def _method_means(scenes: Sequence[Scene], method: str) -> dict[str, Any]:
    agreement = summarise_agreement([_agreement(scene, method) for scene in scenes])
    means = {name: _number(value) for name, value in agreement.items()}
    for measure in ("ssim", "lpips"):
        values = [mean for scene in scenes for mean in _clip_means(scene, measure, method)]
        means[measure] = _rounded(fmean, values)
    each = [scene_measures(scene, method) for scene in scenes]
    errors = {}
    for name in means:
        known = [value for one in each if (value := one[name]) is not None]
        spread = _rounded(stdev, known) if len(known) > 1 else None
        errors[name] = None if spread is None else round(spread / math.sqrt(len(known)), DIGITS)
    return {**means, "standard_error": errors}


def _agreement(scene: Scene, method: str) -> CameraAgreement:
    own, mirrored = scene
    psnr = [_clip_means((line,), "psnr", method)[0] for line in scene]
    crossed = [_clip_means((line,), "crossed_psnr", method)[0] for line in scene]
    shares = [line["motion_share"][method] for line in scene]
    known = [math.nan if share is None else share for share in shares]
    return CameraAgreement(
        motion_share=(known[0], known[1]),
        chose_own=(own["chose_own"][method], mirrored["chose_own"][method]),
        psnr=(psnr[0], psnr[1]),
        crossed_psnr=(crossed[0], crossed[1]),
    )


def _clip_means(lines: Sequence[dict[str, Any]], measure: str, method: str) -> list[float]:
    """Each clip's mean over all frames but the first; nothing of a measure that is not available."""
    return [fmean(line[measure][method][1:]) for line in lines if line[measure] is not None]


def _frame_means(scenes: Sequence[Scene], measure: str, method: str) -> list[float]:
    values = [line[measure][method] for scene in scenes for line in scene]
    return [round(fmean(column), DIGITS) for column in zip(*values, strict=True)]


def _per_frame(
    frames: dict[str, Float[Tensor, "t 3 h w"]], truth: Clip, other: Clip
) -> dict[str, dict[str, list[float]] | None]:
    measures: dict[str, Callable[[Tensor], Tensor | None]] = {
        "psnr": lambda x: frame_psnr(x, truth.frames),
        "crossed_psnr": lambda x: frame_psnr(x, other.frames),
        "ssim": lambda x: metrics.ssim(x, truth.frames),
        "lpips": lambda x: metrics.lpips(x, truth.frames),
    }
    found: dict[str, dict[str, list[float]] | None] = {}
    for name in FRAME_MEASURES:
        values = {method: measures[name](x) for method, x in frames.items()}
        known = {method: x.tolist() for method, x in values.items() if x is not None}
        rounded = {method: [round(v, DIGITS) for v in row] for method, row in known.items()}
        found[name] = rounded or None
    return found


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS) + 0.0  # no minus at zero


def _rounded(statistic: Callable[[list[float]], float], values: list[float]) -> float | None:
    return round(statistic(values), DIGITS) if values else None
