"""What `reconstruct` does with a clip: reconstruct and score it, write its files, print its table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from data.clips import Clip
from eval.pages.scene_outputs import write_scene
from eval.reconstruction import Models, reconstruct_clip, render_scene
from eval.scores.score_report import print_scores
from eval.scores.scoring import BaselineConfig, score_clip
from train.fitting.fit import FitConfig, fit_gaussians

FIT = FitConfig(iterations=100)
"""The per-scene baseline here: seconds, but tens of times those of the forward pass."""
MAX_POLISH_STEPS = 30_000
"""Of a polish, whose seconds are what ends it."""


def reconstruct_and_write(
    folder: Path,
    clip: Clip,
    models: Models,
    *,
    title: str,
    settings: dict[str, Any],
    with_fit: bool = True,
    polish_seconds: float | None = None,
) -> dict[str, Any]:
    """Reconstructs and scores a clip, writes its files into `folder`, prints what came of it.

    polish_seconds: fit the given frames so long from LaLRM's Gaussians; how far that comes depends on the machine.
    Returns the metrics.
    """
    console = Console(stderr=True)
    polish = None
    if polish_seconds is not None:
        polish = FitConfig(iterations=MAX_POLISH_STEPS, seconds=polish_seconds)
    config = BaselineConfig(fit=with_fit, fit_settings=FIT, polish=polish)
    with console.status("starting the renderer (its first start compiles it, up to a minute)"):
        started = time.monotonic()
        warm_up(clip, models, polish is not None or with_fit)
        start_seconds = time.monotonic() - started
    with console.status("reconstructing, and running the baselines"):
        generator = torch.Generator().manual_seed(0)
        result = score_clip(clip, models, config, generator)
    with console.status("writing scene, video, viewer and report"):
        started = time.monotonic()
        summary = write_scene(folder, clip, result, config, title, settings)
        write_seconds = time.monotonic() - started
    seconds = {"start": start_seconds, **result.score.seconds, "write files": write_seconds}
    print_scene(clip, summary, seconds)
    return summary


def warm_up(clip: Clip, models: Models, fits: bool) -> None:
    """Compiles the renderer, for fits also backwards, and starts the models, so that timings do not count it."""
    inputs = clip.select(range(clip.num_path_frames))
    scene = reconstruct_clip(inputs, models.autoencoder, models.lalrm).gaussians
    render_scene(scene, clip.cameras.select(0))
    if fits:
        first = inputs.select([0])
        one_step = FitConfig(iterations=1)
        fit_gaussians(scene, first.frames, first.cameras, one_step, torch.Generator())


def print_scene(clip: Clip, summary: dict[str, Any], seconds: dict[str, float]) -> None:
    """What went in, what came out, seconds per stage, and the scores beside the baselines."""
    table = Table("scene", clip.source)
    size = f"{clip.cameras.height}x{clip.cameras.width}"
    table.add_row("frames in", f"{clip.num_path_frames} of {size}")
    table.add_row("new views to judge by", str(clip.num_frames - clip.num_path_frames))
    table.add_row("Gaussians out", f"{summary['num_gaussians']:,}")
    stages = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    table.add_row("seconds", stages)
    Console().print(table)
    print_scores(summary)
