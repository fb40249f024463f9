"""What `refine` leaves behind, and the page that shows a scene before and after."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from data.durable_files import write_durably
from data.importers.path_json import save_camera_path
from eval.images.metrics import lpips, lpips_hint, psnr, ssim
from eval.pages.clip_pictures import spread
from eval.pages.html_report import Report
from eval.pages.line_chart import Line, LineChart
from eval.pages.pictures import color_depth, depth_range
from eval.pages.scene_outputs import SCENE_FILES, VIEWER_HELP, write_gaussians
from models.gaussians import Gaussians
from models.peak_memory import peak_memory_bytes
from models.rendering.render import Rendering, render
from train.distillation.evidence import Evidence
from train.distillation.refine import RefineStep
from train.run_folder import describe_environment

FILES = {
    **SCENE_FILES,
    "flight.mp4": "a flight through it",
    "camera_path.json": "the cameras that it was made from",
    "metrics.json": "all numbers",
}
NUM_SHOWN = 5
HELD_OUT = (
    "Held out are squares of the image and, where frames were given, some of these: no step looked at them. The"
    " scene that shows them better is kept."
)


@dataclass(frozen=True)
class RefineResult:
    """A scene before and after, and what both are judged by.

    held_out: PSNR [dB] of what no step looked at, before and after. losses: of the steps of this run.
    """

    source: Path
    before: Gaussians
    after: Gaussians
    kept: Gaussians
    evidence: Evidence
    path: Cameras
    background: float
    held_out: tuple[float, float]
    losses: list[RefineStep]


def draw(scene: Gaussians, cameras: Cameras, background: float) -> Rendering:
    """A scene's views, frames clamped to [0, 1]."""
    with torch.no_grad():
        found = render(
            scene,
            cameras.to(scene.means.device),
            background=scene.means.new_full((3,), background),
        )
    return Rendering(found.frames.clamp(0, 1), found.depth, found.alpha)


def score_scene(scene: Gaussians, result: RefineResult) -> dict[str, dict[str, float]]:
    """PSNR [dB], SSIM and, where its weights are, LPIPS of the input view and of the frames shown and held out."""
    evidence = result.evidence
    drawn = draw(scene, evidence.cameras, result.background).frames
    shown = set(evidence.shown_frames)
    groups = {
        "input": [0],
        "frames shown": sorted(shown),
        "frames held out": [v for v in range(1, len(evidence.frames)) if v not in shown],
    }
    scores = {}
    for name, views in groups.items():
        if not views:
            continue
        ours, truth = drawn[views], evidence.frames[views]
        scores[name] = {
            "psnr": float(psnr(ours, truth).mean()),
            "ssim": float(ssim(ours, truth).mean()),
        }
        if (distance := lpips(ours, truth)) is not None:
            scores[name]["lpips"] = float(distance.mean())
    return scores


def preview(
    before: Gaussians, now: Gaussians, path: Cameras, background: float
) -> Float[Tensor, "3 rows columns"]:
    """A few views along the path, as they were above, as they are below."""
    views = path.select(spread(range(path.num_views), NUM_SHOWN))
    rows = [
        torch.cat(list(draw(scene, views, background).frames), dim=-1) for scene in (before, now)
    ]
    return torch.cat(rows, dim=-2).cpu()


def write_refined(
    folder: Path,
    result: RefineResult,
    scores: dict[str, dict[str, dict[str, float]]],
    settings: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Writes `FILES` and `report.html` into an existing folder; returns the content of metrics.json."""
    kept = "the refined scene" if result.kept is result.after else "the scene as it was"
    summary: dict[str, Any] = {
        "source": str(result.source),
        "kept": kept,
        "held_out_psnr": result.held_out,
        "scores": scores,
        "num_gaussians": [result.before.num_gaussians, result.after.num_gaussians],
        "seconds": seconds,
        "peak_memory_mib": round(peak_memory_bytes(result.before.means.device) / 2**20),
        "losses": {
            name: [step.losses.get(name) for step in result.losses]
            for name in dict.fromkeys(name for step in result.losses for name in step.losses)
        },
        "settings": settings,
        "environment": describe_environment(),
    }
    num_shown = write_gaussians(folder, result.kept, result.path, "flight.mp4")
    save_camera_path(result.path, folder / "camera_path.json")
    write_durably(folder / "metrics.json", json.dumps(summary, indent=1).encode())
    report = _report(folder, result, summary)
    told = {name: value for name, value in summary.items() if name != "losses"}
    report.details(
        "Settings, versions, viewer",
        f"viewer.html holds {num_shown:,} of {result.kept.num_gaussians:,} Gaussians, without the almost transparent"
        f" ones.\n{json.dumps(told, indent=1)}",
    )
    report.write(folder / "report.html")
    return summary


def _report(folder: Path, result: RefineResult, summary: dict[str, Any]) -> Report:
    before, after = summary["held_out_psnr"]
    report = Report(
        f"Refined: {result.source.parent.name or result.source.name}",
        f"{result.before.num_gaussians:,} Gaussians went in, {result.after.num_gaussians:,} came out after"
        f" {summary['settings']['config']['iterations']} steps. Kept: {summary['kept']}.",
    )
    report.tiles(
        [
            (f"{before:.2f} dB", "held out, before"),
            (f"{after:.2f} dB", "held out, after"),
            (f"{summary['kept']}", "kept"),
        ]
    )
    report.section("Before and after", HELD_OUT)
    header = ["", "before", "after"]
    rows = [
        [f"{group}, {metric}", *(f"{summary['scores'][w][group][metric]:.3f}" for w in header[1:])]
        for group, values in summary["scores"]["before"].items()
        for metric in values
    ]
    report.table(header, [*rows, ["held out, psnr", f"{before:.3f}", f"{after:.3f}"]])
    if not any("lpips" in values for values in summary["scores"]["before"].values()):
        report.note(f"{lpips_hint()}.")
    _add_pictures(report, result)
    report.video(
        folder / "flight.mp4",
        "The scene that was kept: along its path, back to its middle, and around from there. Left: colour; right:"
        " depth, light is near.",
    )
    report.viewer(folder / "viewer.html", VIEWER_HELP)
    report.links(FILES)
    report.section("Losses", "Weighted, one value a step of the last start.")
    report.charts(_charts(summary["losses"]))
    report.section("Seconds")
    report.table(
        ["stage", "seconds"],
        [[name, f"{value:.2f}"] for name, value in summary["seconds"].items()],
    )
    report.note(f"Peak memory: {summary['peak_memory_mib']:,} MiB.")
    return report


def _add_pictures(report: Report, result: RefineResult) -> None:
    views = spread(range(result.path.num_views), NUM_SHOWN)
    cameras = result.path.select(views)
    pictures = [draw(s, cameras, result.background) for s in (result.before, result.after)]
    evidence = result.evidence
    drawn = [picture.frames.cpu() for picture in pictures]
    report.compare(
        drawn[0][-1], drawn[1][-1], ("before", "after"), f"View {views[-1]}, the end of the path."
    )
    span = depth_range(pictures[0].expected_depth.cpu())
    rows, labels = [], []
    if len(evidence.frames) > 1:
        rows.append([evidence.frames[view].cpu() for view in views])
        labels.append("frame")
    for label, picture, frames in zip(("before", "after"), pictures, drawn, strict=True):
        rows.append(list(frames))
        labels.append(label)
        rows.append([color_depth(depth, *span) for depth in picture.expected_depth.cpu()])
        labels.append(f"depth {label}")
    report.pictures(rows, labels, [f"view {view}" for view in views])
    report.compare(
        evidence.frames[0].cpu(),
        draw(result.kept, evidence.cameras.select(0), result.background).frames[0].cpu(),
        ("image", "kept"),
        "The input view.",
    )


def _charts(losses: dict[str, list[float | None]]) -> list[LineChart]:
    return [
        LineChart(name, "step", "weighted loss", [Line(name, values)])
        for name, values in losses.items()
    ]
