"""The scores of one clip: LaLRM and its baselines on views given, views near by, and views far off.

Every number is kept per view, so that means over any group of views and clips can be taken later.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from data.clips import Clip
from eval.images import metrics
from eval.reconstruction import Models, Reconstruction, reconstruct_clip, render_scene
from eval.scores import baselines
from eval.scores.floaters import floater_share
from eval.scores.measured import DIGITS
from models.gaussians import Gaussians
from train.fitting.fit import FitConfig, fit_gaussians
from train.fitting.starts import StartConfig, random_gaussians

GROUPS = ("seen", "unseen", "far")
OURS, POLISH = "lalrm", "polish"
BASELINES = ("copy", "median_depth", POLISH, "fit", "autoencoder")
METRICS = ("psnr", "ssim")
EXTRAS = ("lpips", "ms_ssim")
"""How the names of further metrics begin: LPIPS (AlexNet) where its weights are, MS-SSIM where frames are large enough
for more than one scale; with fewer than five, its name says how many."""


class BaselineConfig(Config):
    """Which baselines run, and how."""

    copy_nearest: bool = True
    median_depth: bool = True
    autoencoder: bool = True
    fit: bool = True
    fit_start: StartConfig = StartConfig()
    fit_settings: FitConfig = FitConfig()
    polish: FitConfig | None = Field(
        None, description="fit the given frames further from LaLRM's Gaussians, for so long"
    )
    far_below_db: float = Field(
        20.0, description="unseen views count as far where the median-depth baseline is below this"
    )


@dataclass(frozen=True)
class ClipScore:
    """What was measured on one clip.

    groups: views of each group. `unseen` are the near extra views; `far` is chosen from all extra views.
    psnr, ssim: per method, one value a view of the clip, None where the method says nothing there.
    depth_error: median relative error of the expected depth per group, where the truth is known.
    floaters: share of the Gaussians' mass in space that the true views see through (`eval.scores.floaters`); None
        where no depth is known.
    extra: further metrics by name, each as psnr.
    """

    source: str
    groups: dict[str, list[int]]
    psnr: dict[str, list[float | None]]
    ssim: dict[str, list[float | None]]
    depth_error: dict[str, float | None]
    num_gaussians: int
    floaters: float | None
    extra: dict[str, dict[str, list[float | None]]]
    seconds: dict[str, float] = field(compare=False)

    def line(self) -> dict[str, Any]:
        """Everything but the timings, which alone differ from run to run."""
        content = asdict(self)
        del content["seconds"]
        return content


@dataclass(frozen=True)
class ClipResult:
    """Scores, and what is needed to show them. polished: LaLRM's scene fitted further, where that was asked for."""

    score: ClipScore
    reconstruction: Reconstruction
    frames: dict[str, Float[Tensor, "v 3 h w"]]
    depth: Float[Tensor, "v h w"]
    polished: Gaussians | None = None

    @property
    def gaussians(self) -> Gaussians:
        """The scene to hand out: polished, where it was."""
        return self.reconstruction.gaussians if self.polished is None else self.polished


def score_clip(
    clip: Clip,
    models: Models,
    config: BaselineConfig,
    generator: torch.Generator,
    num_near: int | None = None,
) -> ClipResult:
    """Reconstructs a clip from its path frames and scores all its views.

    The path frames are the views given ("seen"). Of the extra views the first `num_near` (by default all)
    are the "unseen" ones; "far" are those of all extra views where the median-depth warp is poor.
    `frames` holds each method's pictures, NaN where it has none.
    """
    num_given = clip.num_path_frames
    given, extra = list(range(num_given)), list(range(num_given, clip.num_frames))
    inputs = clip.select(given)
    reconstruction = reconstruct_clip(inputs, models.autoencoder, models.lalrm)
    seconds = dict(reconstruction.seconds)

    started = time.monotonic()
    drawn = render_scene(reconstruction.gaussians, clip.cameras)
    seconds["render"] = time.monotonic() - started
    frames = {OURS: drawn.frames}
    nowhere = torch.full_like(clip.frames, float("nan"))
    if config.autoencoder:
        frames["autoencoder"] = nowhere.clone()
        frames["autoencoder"][given] = baselines.autoencoder_round_trip(
            models.autoencoder, inputs.frames
        )
    depths = baselines.frame_depths(clip, given)
    targets = clip.cameras.select(extra)
    if config.copy_nearest and extra:
        frames["copy"] = nowhere.clone()
        frames["copy"][extra] = baselines.copy_nearest(
            inputs.frames, inputs.cameras, targets, float(depths.median())
        )
    if config.median_depth and extra:
        frames["median_depth"] = nowhere.clone()
        frames["median_depth"][extra] = baselines.median_depth(
            inputs.frames, inputs.cameras, targets, depths
        )
    polished = None
    if config.polish is not None:
        started = time.monotonic()
        polished = fit_gaussians(
            reconstruction.gaussians, inputs.frames, inputs.cameras, config.polish, generator
        )
        seconds[POLISH] = time.monotonic() - started
        frames[POLISH] = render_scene(polished, clip.cameras).frames
    if config.fit:
        started = time.monotonic()
        fitted = fit_from_nothing(inputs, config, generator)
        seconds["fit"] = time.monotonic() - started
        frames["fit"] = render_scene(fitted, clip.cameras).frames

    psnr = {name: _per_view(metrics.psnr(x, clip.frames)) for name, x in frames.items()}
    ssim = {name: _per_view(metrics.ssim(x, clip.frames)) for name, x in frames.items()}
    groups = {
        "seen": given,
        "unseen": extra[:num_near],
        "far": far_views(extra, psnr.get("median_depth"), config.far_below_db),
    }
    depth = drawn.expected_depth
    score = ClipScore(
        source=clip.source,
        groups=groups,
        psnr=psnr,
        ssim=ssim,
        depth_error={name: _depth_error(clip, depth, views) for name, views in groups.items()},
        num_gaussians=reconstruction.gaussians.num_gaussians,
        floaters=_floaters(clip, reconstruction.gaussians),
        extra=_extra_metrics(clip, frames),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    return ClipResult(score, reconstruction, frames, depth, polished)


def fit_from_nothing(inputs: Clip, config: BaselineConfig, generator: torch.Generator) -> Gaussians:
    """3D Gaussians optimised for this clip alone, from random points along the rays of its pixels."""
    start = random_gaussians(inputs.frames, inputs.cameras, config.fit_start, generator)
    return fit_gaussians(start, inputs.frames, inputs.cameras, config.fit_settings, generator)


def far_views(
    extra: Sequence[int], median_depth_psnr: Sequence[float | None] | None, below_db: float
) -> list[int]:
    """The extra views that the median-depth warp draws worse than `below_db`; none where it did not run."""
    if median_depth_psnr is None:
        return []
    return [view for view in extra if (median_depth_psnr[view] or 0.0) < below_db]


def summarise(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means over all views of all clips, from the clips' lines: PSNR and SSIM per group, ours and baselines'.

    None where a method has no value in a group. `views` counts the views of each group.
    """
    rows = [line for line in lines if "error" not in line]
    if not rows:
        raise UserError("no clip could be scored; the messages above say why")
    rows = [{**row, **row.get("extra", {})} for row in rows]
    extra = dict.fromkeys(name for row in rows for name in row.get("extra", {}))
    measured: dict[str, dict[str, dict[str, float | None]]] = {
        method: {metric: _group_means(rows, metric, method) for metric in (*METRICS, *extra)}
        for method in (OURS, *BASELINES)
    }
    floaters = [row["floaters"] for row in rows if row.get("floaters") is not None]
    errors = {
        group: [row["depth_error"][group] for row in rows if row["depth_error"][group] is not None]
        for group in GROUPS
    }
    return {
        **measured[OURS],
        "baselines": {name: measured[name] for name in BASELINES},
        "depth_error": {group: _mean(values) for group, values in errors.items()},
        "floaters": _mean(floaters),
        "num_gaussians": round(statistics.fmean(row["num_gaussians"] for row in rows)),
        "not_available": {} if "lpips" in extra else {"lpips": metrics.lpips_hint()},
        "views": {group: sum(len(row["groups"][group]) for row in rows) for group in GROUPS},
        "clips": len(rows),
    }


def fit_time_ratio(seconds: dict[str, float]) -> float | None:
    """How many times the seconds of encoding and reconstruction the per-scene fit took; None without it."""
    ours = seconds.get("encode", 0.0) + seconds.get("reconstruct", 0.0)
    return round(seconds["fit"] / ours, 1) if "fit" in seconds and ours > 0 else None


def new_view_psnr(line: dict[str, Any], method: str = OURS) -> float | None:
    """A clip's mean over its near new views, or over the given ones where it has no others."""
    views = line["groups"]["unseen"] or line["groups"]["seen"]
    values = [line["psnr"][method][view] for view in views] if method in line["psnr"] else []
    return _mean([value for value in values if value is not None])


def _group_means(
    rows: Sequence[dict[str, Any]], metric: str, method: str
) -> dict[str, float | None]:
    """The mean over every view of each group for which the method has a value."""
    means = {}
    for group in GROUPS:
        values = [
            row[metric][method][view]
            for row in rows
            if method in row[metric]
            for view in row["groups"][group]
        ]
        means[group] = _mean([value for value in values if value is not None])
    return means


def _extra_metrics(
    clip: Clip, frames: dict[str, Float[Tensor, "v 3 h w"]]
) -> dict[str, dict[str, list[float | None]]]:
    """Further metrics of every method's frames, as far as they can be had."""
    found: dict[str, dict[str, list[float | None]]] = {}
    scales = metrics.ms_ssim_scales(*clip.frames.shape[-2:])
    if scales > 1:
        full = scales == len(metrics.MS_SSIM_WEIGHTS)
        found["ms_ssim" if full else f"ms_ssim_{scales}"] = {
            name: _per_view(metrics.ms_ssim(x, clip.frames, scales)) for name, x in frames.items()
        }
    values = {name: metrics.lpips(x, clip.frames) for name, x in frames.items()}
    known = {name: _per_view(value) for name, value in values.items() if value is not None}
    return {**found, "lpips": known} if known else found


def _floaters(clip: Clip, gaussians: Gaussians) -> float | None:
    if clip.depth is None:
        return None
    share = floater_share(gaussians, clip.cameras, clip.depth)
    return None if share is None else round(share, DIGITS)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), DIGITS) if values else None


def _per_view(values: Float[Tensor, " v"]) -> list[float | None]:
    return [None if math.isnan(value) else round(value, DIGITS) for value in values.tolist()]


def _depth_error(clip: Clip, depth: Float[Tensor, "v h w"], views: list[int]) -> float | None:
    if clip.depth is None or not views:
        return None
    error = metrics.depth_error(depth[views], clip.depth[views])
    return None if error is None else round(error, DIGITS)
