"""Runs what `mesh` was asked for, from its parsed command line to files."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from configs.errors import UserError
from configs.loader import Config
from data.progress_bars import stage_bars
from eval.machine import memory_gib
from eval.mesh_stages import MeshStages
from eval.mesh_texture import open_texture_prior
from eval.mesh_views import ViewPlan, plan_views
from eval.pages.mesh_outputs import BYTES_NEEDED, MeshResult, write_mesh_outputs
from eval.reconstruction import BACKGROUND
from eval.scene_pictures import video_beside
from eval.scene_source import CAMERAS_NAME, SceneSource, open_scene
from eval.unfinished_folder import UnfinishedFolder, request_of
from models.device_choice import device_of
from models.meshing.extraction import (
    MeshConfig,
    extract_surface,
    place_grid,
    texture_mesh,
)
from models.meshing.surface_views import see_surface
from models.meshing.texture_denoising import TextureDenoiseConfig
from models.meshing.texture_memory import check_texture_memory, num_pixels
from models.scenes.check import check_scene
from models.stopwatch import Stopwatch

GRID_RANGE = (128, 384)
"""The default grid has as many nodes along its longest side as views have pixels, within this."""
SCENE_LEVEL = 0.1
"""Of the density, for scenes along a path: predicted ones are thin; measured among 0.1, 0.2 and 0.4."""
MEMORY_SHARE = 0.8
"""Of what is free, a grid or a texture may take this share."""
Checked = TypeVar("Checked", bound=Config)


def make_mesh(args: argparse.Namespace) -> None:
    """Makes the mesh of a parsed command line of `mesh`, and prints what came of it."""
    console = Console(stderr=True)
    watch = Stopwatch(device_of(args.device))
    with watch("load"):
        source = open_scene(args.scene, args.cameras)
        folder = UnfinishedFolder(args.out, what_is_asked(args, source), BYTES_NEEDED)
        check_scene(source.gaussians, str(source.file))
        gaussians = source.gaussians.to(watch.device)
        if source.cameras is None and args.views != "around":
            raise UserError(
                f"{source.file} has no cameras beside it ({CAMERAS_NAME}), which say where it is looked at from;"
                " name a path file with --cameras, or, for an object, look from all around: --views around"
            )
        plan = plan_views(gaussians, source.cameras, args.views, args.num_views, args.size)
        config, denoising = config_of(args, plan), denoising_of(args)
        total_gib, free_gib = memory_gib()
        bytes_free = int(MEMORY_SHARE * free_gib * 2**30) if total_gib else None
        if bytes_free is not None:
            check_texture_memory(config.texture, num_pixels(plan.used), bytes_free)
        asked = open_texture_prior(args, denoising, source, plan.used, watch.device, console)
    console.print(plan.note, highlight=False)
    with stage_bars() as progress, watch("see the surface"):
        views = see_surface(
            plan.gaussians,
            plan.used,
            BACKGROUND,
            lambda done, total: progress("views", done, total),
        )
    stages = MeshStages(folder, views, watch)
    if stages.done:
        console.print(f"going on; done before: {', '.join(stages.done)}")
    with stage_bars() as progress:
        grid = place_grid(views, config, bounds_of(args.bounds))
        mesh = stages.surface(
            lambda: extract_surface(
                gaussians,
                views,
                grid,
                config,
                all_around=plan.all_around,
                bytes_free=bytes_free,
                progress=progress,
            )
        )
        textured = stages.texture(lambda: texture_mesh(mesh, views, config, progress))
        change = None
        if asked is not None:
            change = asked.redraw(textured, args, watch.device, progress, stages)
            textured = change.kept
        settings = json.loads(json.dumps(vars(args), default=str))
        result = MeshResult(
            source.file, gaussians, mesh, textured, grid, views, plan, config, change
        )
        started = time.monotonic()
        with folder.filling() as target:
            summary = write_mesh_outputs(target, result, settings, watch.seconds, progress)
        watch.seconds["write files"] = time.monotonic() - started
    print_mesh(summary, watch.seconds)
    if change is not None:
        console.print(change.verdict(), highlight=False)
    print(f"report: {args.out / 'report.html'}")


def what_is_asked(args: argparse.Namespace, source: SceneSource) -> dict[str, str]:
    """What has to be the same for a run to be continued."""
    files = {"scene": source.file, "cameras": source.cameras_file, "image": _file(args.image)}
    return request_of(args, {**files, "video": video_beside(source)})


def _file(path: Path | None) -> Path | None:
    """A path that a digest can be taken of; what else is wrong with an image, its reader tells."""
    return path if path is not None and path.is_file() else None


def config_of(args: argparse.Namespace, plan: ViewPlan) -> MeshConfig:
    """The defaults with what the command line says otherwise; raises UserError for a value out of range."""
    given = {name: getattr(args, name) for name in MeshConfig.model_fields if hasattr(args, name)}
    tree = {name: value for name, value in given.items() if value is not None}
    tree.setdefault("grid", min(max(plan.used.width, GRID_RANGE[0]), GRID_RANGE[1]))
    if plan.all_around:
        # Views from everywhere agree on a body, and thin parts of it have two sides.
        tree["reach_share"] = 0.0
    else:
        tree.setdefault("level", SCENE_LEVEL)
    return validated(MeshConfig, tree)


def denoising_of(args: argparse.Namespace) -> TextureDenoiseConfig:
    """How a prior draws the texture anew; raises UserError for a value out of range."""
    names = TextureDenoiseConfig.model_fields
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    tree = {name: value for name, value in given.items() if value is not None}
    return validated(TextureDenoiseConfig, tree)


def validated(kind: type[Checked], tree: dict[str, Any]) -> Checked:
    """A config of command-line values; raises UserError that names the option."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option} is {first['input']}: {first['msg']}") from error


def bounds_of(numbers: list[float] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The two corners of --bounds."""
    return None if numbers is None else (np.array(numbers[:3]), np.array(numbers[3:]))


def print_mesh(summary: dict[str, object], seconds: dict[str, float]) -> None:
    """What came out, how it compares with the scene, and the seconds of each stage."""
    table = Table("mesh", Path(str(summary["source"])).name)
    table.add_row("method, grid", f"{summary['method']}, {summary['grid']}")
    table.add_row("faces, vertices", f"{summary['num_faces']:,}, {summary['num_vertices']:,}")
    table.add_row("closed", "yes" if summary["watertight"] else "no")
    scores = summary["scores"]
    assert isinstance(scores, dict)
    for name, score in scores.items():
        table.add_row(
            f"against the scene, {name}",
            f"{score['psnr']:.1f} dB, covers {score['covered']:.1%} of what the scene does",
        )
    if isinstance(change := summary.get("texture"), dict):
        for name, (before, after) in change["psnr_against_scene"].items():
            table.add_row(f"by the prior, {name}", f"{before:.1f} dB before, {after:.1f} dB after")
    table.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    Console().print(table)
