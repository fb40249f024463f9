"""What `reconstruct` leaves behind for one scene, and the page that shows all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.cameras import Cameras
from data.clips import Clip
from data.durable_files import write_durably
from data.importers.path_json import save_camera_path
from data.importers.video import write_video
from eval.pages.clip_pictures import GROUP_NAMES, METHOD_NAMES, compare_grid, method_grid
from eval.pages.display_filter import with_pixel_blur
from eval.pages.flythrough import FPS, flythrough_cameras, flythrough_frames
from eval.pages.html_report import Report
from eval.pages.pictures import png_bytes
from eval.pages.viewer_html import write_viewer
from eval.scores.score_report import add_scores
from eval.scores.scoring import (
    OURS,
    POLISH,
    BaselineConfig,
    ClipResult,
    fit_time_ratio,
    summarise,
)
from models.gaussians import Gaussians
from models.scenes.files import save_scene
from train.run_folder import describe_environment

SCENE_FILES = {
    "scene.ply": "the Gaussians, for any 3DGS viewer",
    "scene.spz": "the same, compressed, for viewers on the web",
    "viewer.html": "the scene in 3D",
}
"""What `write_gaussians` writes, beside the flight."""

FILES = {
    **SCENE_FILES,
    "video.mp4": "a flight through it",
    "camera_path.json": "the cameras that it was made from",
    "grid.png": "truth, render, error, depth",
    "metrics.json": "all numbers",
}
VIEWER_HELP = (
    "Drag to turn, scroll to move, right-drag to pan. The orange pyramids are the cameras; the play button flies"
    " along them."
)
BYTES_NEEDED = 20_000_000
"""A generous guess of what one scene's files take, for the message on a full disk."""


def write_scene(
    folder: Path,
    clip: Clip,
    result: ClipResult,
    config: BaselineConfig,
    title: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Writes `FILES` and `report.html` into an existing folder; returns the content of metrics.json."""
    gaussians, path = result.gaussians, clip.select(range(clip.num_path_frames))
    summary = {
        **summarise([{"clip": 0, **result.score.line()}]),
        "source": clip.source,
        "num_gaussians": gaussians.num_gaussians,
        "seconds": result.score.seconds,
        "fit_time_ratio": fit_time_ratio(result.score.seconds),
        "settings": settings,
        "environment": describe_environment(),
    }
    num_shown = write_gaussians(folder, gaussians, path.cameras, "video.mp4")
    save_camera_path(path.cameras, folder / "camera_path.json")
    write_durably(folder / "grid.png", png_bytes(compare_grid(clip, result).draw()))
    write_durably(folder / "metrics.json", json.dumps(summary, indent=1).encode())
    report = scene_report(folder, clip, result, config, title, summary)
    report.details(
        "Settings, versions, viewer",
        f"viewer.html holds {num_shown:,} of {gaussians.num_gaussians:,} Gaussians, without the"
        f" almost transparent ones.\n{json.dumps(summary, indent=1)}",
    )
    report.write(folder / "report.html")
    return summary


def write_gaussians(folder: Path, gaussians: Gaussians, path: Cameras, flight: str) -> int:
    """Writes the scene as PLY and SPZ, `viewer.html` and a flight; returns the Gaussians in the viewer.

    path: the cameras that the scene was predicted from. flight: name of the video file.
    """
    for name in ("scene.ply", "scene.spz"):
        save_scene(gaussians, folder / name)
    shown = with_pixel_blur(gaussians, path)
    write_video(flythrough_frames(shown, flythrough_cameras(path)), folder / flight, FPS)
    return write_viewer(folder / "viewer.html", shown, path)


def scene_report(
    folder: Path,
    clip: Clip,
    result: ClipResult,
    config: BaselineConfig,
    title: str,
    summary: dict[str, Any],
) -> Report:
    """The page of one scene, from the files that are in `folder` already."""
    score, num_given = result.score, clip.num_path_frames
    seconds = result.reconstruction.seconds
    total = sum(seconds.values())
    polished = (
        f" They were then fitted to these frames for {score.seconds[POLISH]:.1f} s more: that is the scene in the"
        " files; the numbers and pictures have both."
        if result.polished is not None
        else ""
    )
    report = Report(
        title,
        f"{num_given} frames of {clip.cameras.height}x{clip.cameras.width} with their cameras went in;"
        f" {score.num_gaussians:,} Gaussians came out {total:.2f} s later, in one forward pass.{polished}",
    )
    tiles = []
    methods = {"": summary, ", polished": summary["baselines"][POLISH]}
    for group in ("unseen", "seen"):
        for suffix, scores in methods.items():
            if scores["psnr"][group] is not None:
                label = f"PSNR, {GROUP_NAMES[group]} views{suffix}"
                tiles.append((f"{scores['psnr'][group]:.2f} dB", label))
    tiles += [(f"{score.num_gaussians:,}", "Gaussians"), (f"{total:.2f} s", "frames to Gaussians")]
    report.tiles(tiles)
    report.video(
        folder / "video.mp4",
        "Along the camera's path, back to its middle, and around from there: a place where no frame was"
        " taken. Left: colour; right: depth, light is near.",
    )
    report.viewer(
        folder / "viewer.html",
        VIEWER_HELP,
    )
    report.links(FILES)
    _add_pictures(report, clip, result)
    add_scores(report, summary, config.far_below_db)
    report.section("Seconds")
    report.table(
        ["stage", "seconds"], [[name, f"{value:.3f}"] for name, value in score.seconds.items()]
    )
    return report


def _add_pictures(report: Report, clip: Clip, result: ClipResult) -> None:
    score = result.score
    new = score.groups["unseen"] or score.groups["seen"]
    view = sorted(new, key=lambda v: score.psnr[OURS][v] or 0.0)[len(new) // 2]
    kind = "a new view" if score.groups["unseen"] else "a given view"
    report.section("Against the truth")
    report.compare(
        clip.frames[view],
        result.frames[OURS][view],
        ("truth", METHOD_NAMES[OURS]),
        f"Drag to compare: {kind} of median quality, {score.psnr[OURS][view]:.1f} dB.",
    )
    grid = compare_grid(clip, result)
    report.pictures(grid.rows, grid.row_labels, grid.column_labels)
    if score.groups["unseen"]:
        grid = method_grid(clip, result)
        report.section("What others make of the new views")
        report.pictures(grid.rows, grid.row_labels, grid.column_labels)
