"""What `mesh` leaves behind, and the page that shows it: the scene's Gaussians beside the mesh made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from data.durable_files import write_durably
from data.importers.video import write_video
from eval.images.metrics import psnr
from eval.mesh_views import ViewPlan
from eval.pages.clip_pictures import spread
from eval.pages.flythrough import FPS, PICTURE_HEIGHT
from eval.pages.html_report import Report
from eval.pages.mesh_pictures import MeshPictures, draw_pictures
from eval.pages.pictures import color_depth, depth_range, draw_grid, png_bytes
from eval.pages.texture_outputs import FILES as TEXTURE_FILES
from eval.pages.texture_outputs import TextureChange, add_change, change_summary, see_change
from eval.reconstruction import render_scene
from models.gaussians import Gaussians
from models.meshing.extraction import MeshConfig, Progress
from models.meshing.files import FILES as MESH_FILES
from models.meshing.files import NAME, TexturedMesh, write_mesh
from models.meshing.grid import Grid
from models.meshing.surface import Mesh, open_edges, parts
from models.meshing.surface_views import MIN_ALPHA, SurfaceViews
from train.run_folder import describe_environment

FILES = {
    **MESH_FILES,
    "flight.mp4": "a flight: the scene, the mesh, its bare shape",
    "compare.png": "a few views of both",
    "metrics.json": "all numbers",
}
BYTES_NEEDED = 60_000_000
"""A generous guess of what the files take, for the message on a full disk."""
USED = "used"
"""What the views that the mesh was made from are called."""
NUM_SHOWN = 3
"""Views of each kind in the picture."""
NUM_SCORED = 12
"""Of the views that were used, so many are scored."""
AT_ONCE = 8
FLIGHT_FPS = 12
"""Half of what the cameras are made for: three pictures a frame take time."""


@dataclass(frozen=True)
class MeshResult:
    """A mesh with all that it came from.

    gaussians: as predicted; `plan` has them as they are drawn. change: what a prior did to the texture, if one did.
    """

    source: Path
    gaussians: Gaussians
    mesh: Mesh
    textured: TexturedMesh
    grid: Grid
    views: SurfaceViews
    plan: ViewPlan
    config: MeshConfig
    change: TextureChange | None = None


@dataclass(frozen=True)
class Comparison:
    """The same views of the Gaussians and of the mesh.

    scene_depth: scene units, 0 where there is nothing. covered: share of what the scene shows that the mesh does.
    """

    cameras: Cameras
    scene: Float[Tensor, "v 3 h w"]
    scene_depth: Float[Tensor, "v h w"]
    mesh: MeshPictures
    psnr: float
    covered: float


def write_mesh_outputs(
    folder: Path,
    result: MeshResult,
    settings: dict[str, Any],
    seconds: dict[str, float],
    progress: Progress,
) -> dict[str, Any]:
    """Writes `FILES` and `report.html` into an existing folder, and what `texture_outputs` has where a prior drew
    the texture; returns the content of metrics.json.
    """
    write_mesh(result.textured, folder, result.plan.first)
    plan, mesh = result.plan, result.mesh
    some = plan.used.select(spread(range(plan.used.num_views), NUM_SCORED))
    groups = {name: compare(result, c) for name, c in {USED: some, **plan.judged}.items()}
    kind = "even" if result.grid.contraction is None else "contracted"
    summary = {
        "source": str(result.source),
        "num_gaussians": result.gaussians.num_gaussians,
        "method": result.config.method,
        "grid": f"{'x'.join(str(side) for side in result.grid.shape)} {kind}",
        "num_faces": mesh.num_faces,
        "num_vertices": len(mesh.vertices),
        "num_parts": parts(mesh)[0],
        "watertight": len(open_edges(mesh)) == 0,
        "scores": {
            name: {"psnr": group.psnr, "covered": group.covered} for name, group in groups.items()
        },
        "seconds": dict(seconds),
        "views": plan.note,
        "config": result.config.model_dump(mode="json"),
        "settings": settings,
        "environment": describe_environment(),
    }
    seen = {}
    if result.change is not None:
        seen = see_change(result.change, {name: (g.cameras, g.scene) for name, g in groups.items()})
        summary["texture"] = change_summary(result.change, seen)
    write_video(flight_frames(result, progress), folder / "flight.mp4", FLIGHT_FPS)
    rows, columns = picture_rows(result, groups)
    write_durably(
        folder / "compare.png", png_bytes(draw_grid(list(rows.values()), list(rows), columns))
    )
    write_durably(folder / "metrics.json", json.dumps(summary, indent=1).encode())
    report = mesh_report(folder, result, groups, summary)
    report.section("The same views of both")
    report.pictures(list(rows.values()), list(rows), columns)
    if result.change is not None:
        add_change(report, folder, result.change, seen)
    report.section("Texture")
    report.image(folder / f"{NAME}.png", "As xatlas laid the surface out.")
    report.section("Seconds")
    report.table(["stage", "seconds"], [[name, f"{value:.1f}"] for name, value in seconds.items()])
    report.details("Settings, versions", json.dumps(summary, indent=1))
    report.write(folder / "report.html")
    return summary


def compare(result: MeshResult, cameras: Cameras) -> Comparison:
    """The views of both, and how near they are over whole pictures."""
    scene, depth = [], []
    for view in range(cameras.num_views):
        drawn = render_scene(
            result.plan.gaussians, cameras.select(view).to(result.gaussians.means.device)
        )
        scene.append(drawn.frames.cpu())
        depth.append(torch.where(drawn.alpha >= MIN_ALPHA, drawn.expected_depth, 0.0).cpu())
    frames, depths = torch.cat(scene), torch.cat(depth)
    mesh = draw_pictures(result.textured, cameras)
    shows = depths > 0
    covered = (shows & (mesh.depth > 0)).sum() / shows.sum().clamp(min=1)
    near = float(psnr(mesh.textured, frames).mean())
    return Comparison(cameras, frames, depths, mesh, near, float(covered))


def picture_rows(
    result: MeshResult, groups: dict[str, Comparison]
) -> tuple[dict[str, list[Tensor]], list[str]]:
    """Rows of pictures by their labels, and the columns' labels: a few views of each group."""
    rows: dict[str, list[Tensor]] = {
        label: [] for label in ("Gaussians", "mesh", "its shape", "depth, Gaussians", "depth, mesh")
    }
    columns = []
    known = torch.cat([group.scene_depth.flatten() for group in groups.values()])
    span = depth_range(known) if bool((known > 0).any()) else (None, None)
    for name, group in groups.items():
        chosen = spread(range(group.cameras.num_views), NUM_SHOWN)
        for view in chosen:
            pictures = (
                group.scene[view],
                group.mesh.textured[view],
                group.mesh.clay[view],
                color_depth(group.scene_depth[view], *span),
                color_depth(group.mesh.depth[view], *span),
            )
            for row, picture in zip(rows.values(), pictures, strict=True):
                row.append(picture)
            columns.append(
                f"{name}: {float(psnr(group.mesh.textured[view], group.scene[view])):.1f} dB"
            )
    return rows, columns


def flight_frames(
    result: MeshResult, progress: Progress
) -> Iterator[Float[Tensor, "3 h triple_w"]]:
    """Frames of the flight at `FLIGHT_FPS`: the scene, the mesh and its bare shape, side by side."""
    flight = result.plan.flight.select(slice(None, None, FPS // FLIGHT_FPS))
    factor = max(1, round(PICTURE_HEIGHT / flight.height))
    flight = flight.resize(flight.height * factor, flight.width * factor)
    for start in range(0, flight.num_views, AT_ONCE):
        cameras = flight.select(slice(start, start + AT_ONCE))
        scene = render_scene(result.plan.gaussians, cameras.to(result.gaussians.means.device))
        mesh = draw_pictures(result.textured, cameras, samples=1)
        yield from torch.cat([scene.frames.cpu(), mesh.textured, mesh.clay], dim=-1)
        progress("flight", start + cameras.num_views, flight.num_views)


def mesh_report(
    folder: Path, result: MeshResult, groups: dict[str, Comparison], summary: dict[str, Any]
) -> Report:
    """The upper part of the page, from the files that are in `folder` already."""
    total = sum(summary["seconds"].values())
    report = Report(
        f"Mesh of {result.source.name}",
        f"{summary['num_gaussians']:,} Gaussians became {summary['num_faces']:,} textured triangles in"
        f" {total:.0f} s, by the method {summary['method']!r}; {summary['views']}.",
    )
    unused = [group for name, group in groups.items() if name != USED]
    report.tiles(
        [
            (f"{summary['num_faces']:,}", "faces"),
            (f"{groups[USED].psnr:.1f} dB", "mesh against Gaussians, views used"),
            *((f"{group.psnr:.1f} dB", "other views") for group in unused[:1]),
            (
                f"{min(group.covered for group in groups.values()):.1%}",
                "of the scene covered, at least",
            ),
            ("yes" if summary["watertight"] else "no", "closed"),
        ]
    )
    report.video(
        folder / "flight.mp4",
        "The same flight through the Gaussians, the mesh, and its bare shape.",
    )
    report.links(FILES if result.change is None else {**FILES, **TEXTURE_FILES})
    worst = unused[-1] if unused else groups[USED]
    middle = worst.cameras.num_views // 2
    report.section("Gaussians and mesh")
    report.compare(
        worst.scene[middle],
        worst.mesh.textured[middle],
        ("Gaussians", "mesh"),
        "Drag to compare: a view that the mesh was not made from.",
    )
    report.table(
        ["views", "number", "PSNR against the Gaussians", "covered"],
        [
            [name, str(group.cameras.num_views), f"{group.psnr:.2f} dB", f"{group.covered:.1%}"]
            for name, group in groups.items()
        ],
    )
    return report
