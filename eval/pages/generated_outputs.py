"""What `generate` leaves behind for one scene, and the page that shows all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.durable_files import write_durably
from data.importers.nerfstudio import write_nerfstudio
from data.importers.path_json import save_camera_path
from data.importers.photo import Photo
from data.importers.video import write_video
from eval.images.metrics import psnr
from eval.pages.clip_pictures import spread
from eval.pages.html_report import Report
from eval.pages.path_picture import write_path_picture
from eval.pages.pictures import color_depth, depth_range
from eval.pages.scene_outputs import SCENE_FILES, VIEWER_HELP, write_gaussians
from eval.reconstruction import render_scene
from models.generated_scene import GeneratedScene
from train.run_folder import describe_environment

FPS = 8
"""Of the generated video, as CogVideoX's."""

FILES = {
    "video.mp4": "the generated video",
    "flight.mp4": "a flight through the scene",
    **SCENE_FILES,
    "path.png": "the camera path",
    "camera_path.json": "the camera path, to be used again",
    "clip/transforms.json": "the video's frames with their cameras",
    "metrics.json": "all numbers",
}
NUM_SHOWN = 6


def write_generated(
    folder: Path,
    scene: GeneratedScene,
    photo: Photo,
    path_name: str,
    settings: dict[str, Any],
    *,
    title: str | None = None,
    other_seconds: dict[str, float] | None = None,
    measured: dict[str, Any] | None = None,
    add_sections: Callable[[Report], None] | None = None,
) -> dict[str, Any]:
    """Writes `FILES` and `report.html` into an existing folder; returns the content of metrics.json.

    other_seconds: of stages before the image went in. measured: further entries of metrics.json.
    add_sections: adds to the page what else there is to show.
    """
    write_video(scene.video, folder / "video.mp4", FPS)
    num_shown = write_gaussians(folder, scene.gaussians, scene.cameras, "flight.mp4")
    save_camera_path(scene.cameras, folder / "camera_path.json")
    write_nerfstudio(scene.clip(), folder / "clip")
    write_path_picture(folder / "path.png", scene.cameras, scene.gaussians, path_name)
    rendering = render_scene(scene.gaussians, scene.cameras)
    agreement = psnr(rendering.frames.cpu(), scene.video.cpu())
    summary = {
        "source": scene.source,
        "path": path_name,
        "num_frames": len(scene.video),
        "num_gaussians": scene.gaussians.num_gaussians,
        "seconds": {**(other_seconds or {}), **scene.seconds},
        "first_frame_psnr": float(psnr(scene.video[0].cpu(), photo.frame)),
        "scene_video_psnr": float(agreement.mean()),
        "clips": [[views.start, views.stop] for views in scene.clips],
        "units": scene.units,
        "notes": scene.notes,
        **(measured or {}),
        "settings": settings,
        "environment": describe_environment(),
    }
    write_durably(folder / "metrics.json", json.dumps(summary, indent=1).encode())
    depth = rendering.expected_depth.cpu()
    title = title or f"Scene from {Path(scene.source).name}"
    report = _report(folder, title, scene, photo, summary, rendering.frames.cpu(), depth)
    if add_sections is not None:
        add_sections(report)
    report.section("Seconds")
    report.table(
        ["stage", "seconds"],
        [[name, f"{value:.2f}"] for name, value in summary["seconds"].items()],
    )
    report.details(
        "Settings, versions, viewer",
        f"viewer.html holds {num_shown:,} of {scene.gaussians.num_gaussians:,} Gaussians, without the"
        f" almost transparent ones.\n{json.dumps(summary, indent=1)}",
    )
    report.write(folder / "report.html")
    return summary


def _report(
    folder: Path,
    title: str,
    scene: GeneratedScene,
    photo: Photo,
    summary: dict[str, Any],
    renders: Float[Tensor, "t 3 h w"],
    depth: Float[Tensor, "t h w"],
) -> Report:
    total = sum(scene.seconds.values())
    size = f"{scene.cameras.height}x{scene.cameras.width}"
    report = Report(
        title,
        f"One image and a camera path ({summary['path']}) went in. A video model drew {summary['num_frames']}"
        f" frames of {size} as latents, and LaLRM turned these into {summary['num_gaussians']:,} Gaussians.",
    )
    report.tiles(
        [
            (f"{total:.1f} s", "image to Gaussians"),
            (f"{summary['num_gaussians']:,}", "Gaussians"),
            (f"{summary['first_frame_psnr']:.1f} dB", "first frame against the image"),
            (f"{summary['scene_video_psnr']:.1f} dB", "scene against video"),
        ]
    )
    report.video(folder / "video.mp4", "What the video model drew along the path.")
    report.video(
        folder / "flight.mp4",
        "The scene: along the path, back to its middle, and around from there. Left: colour; right: depth,"
        " light is near.",
    )
    report.viewer(
        folder / "viewer.html",
        VIEWER_HELP,
    )
    report.links(FILES)
    report.section("The image, and the first frame")
    report.compare(
        photo.frame, scene.video[0].cpu(), ("image", "first frame"), " ".join(_sentences(scene))
    )
    report.section("The camera path")
    report.image(folder / "path.png", "Distances in scene units: the image's median depth is 1.")
    report.section("Video and scene")
    shown = spread(range(len(renders)), NUM_SHOWN)
    span = depth_range(depth) if bool((depth > 0).any()) else (None, None)
    video = scene.video.cpu()
    report.pictures(
        [
            [video[view] for view in shown],
            [renders[view] for view in shown],
            [color_depth(depth[view], *span) for view in shown],
        ],
        ["video", "scene", "depth"],
        [f"frame {view}" for view in shown],
    )
    return report


def _sentences(scene: GeneratedScene) -> list[str]:
    return [f"{note[0].upper()}{note[1:]}." for note in scene.notes]


def preview_strip(frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "3 rows columns"]:
    """A few frames of each clip in a row, clips below each other."""
    shown = spread(range(frames.shape[1]), NUM_SHOWN)
    rows = [torch.cat([clip[view] for view in shown], dim=-1) for clip in frames]
    return torch.cat(rows, dim=-2).clamp(0, 1).cpu()


def print_generated(scene: GeneratedScene, summary: dict[str, Any], write_seconds: float) -> None:
    """What went in, what came out, and the seconds of each stage."""
    table = Table("scene", Path(scene.source).name)
    size = f"{scene.cameras.height}x{scene.cameras.width}"
    clips = f", {len(scene.clips)} clips" if len(scene.clips) > 1 else ""
    table.add_row("path", summary["path"])
    table.add_row("video", f"{summary['num_frames']} frames of {size}{clips}")
    table.add_row("Gaussians", f"{summary['num_gaussians']:,}")
    table.add_row("first frame against the image", f"{summary['first_frame_psnr']:.1f} dB")
    table.add_row("scene against video", f"{summary['scene_video_psnr']:.1f} dB")
    seconds = {**summary["seconds"], "write files": write_seconds}
    table.add_row("seconds", ", ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    Console().print(table)
