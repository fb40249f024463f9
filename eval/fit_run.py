"""What `reconstruct --fit` does with a capture: Gaussians fitted to its frames, without a model."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from configs.loader import load_config
from data.clips import Clip
from data.durable_files import write_durably
from data.importers.fresh_folder import fresh_folder
from data.importers.path_json import save_camera_path
from data.progress_bars import stage_bars
from eval.clip_source import CutOptions, open_capture
from eval.images.metrics import psnr, ssim
from eval.pages.clip_pictures import spread
from eval.pages.html_report import Report
from eval.pages.pictures import color_depth, color_error, depth_range
from eval.pages.scene_outputs import BYTES_NEEDED, SCENE_FILES, VIEWER_HELP, write_gaussians
from models.rendering.render import Rendering, render
from train.fitting.capture import CaptureFitConfig, fit_capture, held_out_frames
from train.fitting.fit import FitStep, FittedScene
from train.run_folder import describe_environment

FILES = {
    **SCENE_FILES,
    "flight.mp4": "a flight through it",
    "camera_path.json": "the capture's cameras",
    "metrics.json": "all numbers",
}
NUM_SHOWN = 4
LEAST_WHITE = 0.2
"""Share of all pixels that are plain white in frames cut out on white."""


def fit_and_write(args: argparse.Namespace) -> None:
    """Fits the capture of a parsed command line of `reconstruct`, writes its files, prints its scores."""
    console = Console(stderr=True)
    config = load_config(None, args.overrides, CaptureFitConfig)
    height, width = args.size
    with stage_bars() as progress:
        capture = open_capture(
            args.source,
            CutOptions(height=height, width=width, number=args.clip),
            cameras=args.cameras,
            images=args.images,
            progress=progress,
        )
    told = any(text.partition("=")[0].strip() == "background" for text in args.overrides)
    if not told and is_cut_out(capture):
        config = config.model_copy(update={"background": 1.0})
        console.print(
            "much of the frames is plain white: it counts as background, not as part of the scene"
        )
    fitted, held_out = held_out_frames(capture.num_frames)
    started = time.monotonic()
    with stage_bars() as progress:

        def on_step(step: FitStep) -> None:
            progress("fitting", step.step + 1, config.iterations)

        scene = fit_capture(capture.select(fitted), config, 0, on_step)
    seconds = time.monotonic() - started
    with fresh_folder(args.out, BYTES_NEEDED) as folder, console.status("writing files"):
        settings = json.loads(json.dumps(vars(args), default=str))
        settings["config"] = config.model_dump(mode="json")
        groups = {"fitted": fitted, "held out": held_out}
        summary = write_fit(folder, capture, scene, groups, config.background, settings, seconds)
    table = Table(f"{summary['num_gaussians']:,} Gaussians, {seconds:.1f} s", "PSNR", "SSIM")
    for name, scores in summary["scores"].items():
        table.add_row(name, f"{scores['psnr']:.2f} dB", f"{scores['ssim']:.3f}")
    Console().print(table)


def is_cut_out(capture: Clip) -> bool:
    """Whether the frames show something cut out on white, as NeRF-synthetic's do."""
    white = (capture.frames >= 1 - 0.5 / 255).all(dim=1)
    return float(white.float().mean()) > LEAST_WHITE


def draw(scene: FittedScene, capture: Clip, background: float) -> Rendering:
    """All views of a capture, frames clamped to [0, 1]."""
    with torch.no_grad():
        found = render(scene.gaussians, capture.cameras, background=torch.full((3,), background))
    return Rendering(found.frames.clamp(0, 1), found.depth, found.alpha)


def write_fit(
    folder: Path,
    capture: Clip,
    scene: FittedScene,
    groups: dict[str, list[int]],
    background: float,
    settings: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Writes `FILES` and `report.html` into an existing folder; returns the content of metrics.json."""
    drawn = draw(scene, capture, background)
    scores = {
        name: {
            "psnr": float(psnr(drawn.frames[views], capture.frames[views]).mean()),
            "ssim": float(ssim(drawn.frames[views], capture.frames[views]).mean()),
        }
        for name, views in groups.items()
        if views
    }
    summary = {
        "source": capture.source,
        "num_gaussians": scene.gaussians.num_gaussians,
        "scores": scores,
        "held_out": groups["held out"],
        "seconds": seconds,
        "settings": settings,
        "environment": describe_environment(),
    }
    num_shown = write_gaussians(folder, scene.gaussians, capture.cameras, "flight.mp4")
    save_camera_path(capture.cameras, folder / "camera_path.json")
    write_durably(folder / "metrics.json", json.dumps(summary, indent=1).encode())
    report = Report(
        f"Scene fitted to {capture.source}",
        f"{len(groups['fitted'])} frames of {capture.cameras.height}x{capture.cameras.width} with their cameras;"
        f" {summary['num_gaussians']:,} Gaussians after {seconds:.1f} s. {len(groups['held out'])} other frames judge.",
    )
    report.tiles([(f"{s['psnr']:.2f} dB", f"PSNR, frames {name}") for name, s in scores.items()])
    report.video(folder / "flight.mp4", "Left: colour; right: depth, light is near.")
    report.viewer(folder / "viewer.html", VIEWER_HELP)
    report.links(FILES)
    shown = spread(groups["held out"] or groups["fitted"], NUM_SHOWN)
    span = depth_range(drawn.expected_depth)
    report.section("Against the truth")
    report.pictures(
        [
            [capture.frames[view] for view in shown],
            [drawn.frames[view] for view in shown],
            [color_error(drawn.frames[view], capture.frames[view]) for view in shown],
            [color_depth(drawn.expected_depth[view], *span) for view in shown],
        ],
        ["truth", "scene", "error", "depth"],
        [f"frame {view}" for view in shown],
    )
    report.details(
        "Settings, versions, viewer",
        f"viewer.html holds {num_shown:,} of {summary['num_gaussians']:,} Gaussians, without the almost transparent"
        f" ones.\n{json.dumps(summary, indent=1)}",
    )
    report.write(folder / "report.html")
    return summary
