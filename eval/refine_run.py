"""Runs what `refine` was asked for, from its parsed command line to files."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from configs.errors import UserError
from configs.loader import load_config
from data.cameras import Cameras
from eval.generate_run import memory_explained
from eval.named_prior import (
    NO_PRIOR,
    VIDEO_PRIOR,
    check_prior_options,
    depth_shown,
    memory_cures,
    open_prior,
)
from eval.pages.refine_outputs import RefineResult, score_scene, write_refined
from eval.refine_steps import run_with_previews
from eval.scene_pictures import ScenePictures, read_pictures, video_beside
from eval.scene_source import SceneSource, open_scene
from eval.unfinished_folder import UnfinishedFolder, request_of
from models.device_choice import device_of
from models.gaussians import Gaussians
from models.scenes.check import check_scene
from models.stopwatch import Stopwatch
from train.distillation.cameras import CameraSampler
from train.distillation.evidence import check_input, gather_evidence, held_out_psnr
from train.distillation.refine import RefineConfig, Refinement

VIDEO_STEPS = 60
"""Of distillation by a prior that sees a whole path in each; see configs/eval/tiny_refinement.yaml."""
FITTED_STEPS = 200
"""Of a fit to pictures."""


@dataclass(frozen=True)
class Inputs:
    """All that a refinement looks at. path: the scene's cameras."""

    source: SceneSource
    scene: Gaussians
    path: Cameras
    pictures: ScenePictures


def refine_scene(args: argparse.Namespace) -> None:
    """Refines the scene of a parsed command line of `refine`, and prints what came of it."""
    check_prior_options(args)
    with memory_explained(memory_cures(args)):
        _refine_scene(args)


def _refine_scene(args: argparse.Namespace) -> None:
    console = Console(stderr=True)
    watch = Stopwatch(device_of(args.device))
    config = config_of(args)
    inputs = read_inputs(args, watch.device)
    pictures = inputs.pictures
    evidence = gather_evidence(
        pictures.frames,
        inputs.path.select(list(range(len(pictures.frames)))),
        config.evidence,
        args.seed,
        pictures.judge_only,
    ).to(watch.device)
    if pictures.judge_only:
        console.print("the video beside the scene judges its other views; no step looks at it")
    check_input(inputs.scene, evidence, config.background, str(args.image), str(inputs.source.file))
    depth = depth_shown(inputs.scene, inputs.path.select(0), console)
    folder = UnfinishedFolder(args.out, what_is_asked(args, config, inputs.source))
    with watch("load prior"):
        prior = open_prior(
            args,
            pictures.frames[0],
            inputs.path.select(0),
            depth,
            watch.device,
        )
    sampler = CameraSampler(inputs.path, depth, config.cameras)
    refinement = Refinement(inputs.scene, sampler, evidence, prior, config, args.seed)
    folder.open()
    if (state := folder.load_state()) is not None:
        refinement.load_state(state)
        console.print(f"going on from step {refinement.num_steps} of {config.iterations}")
    steps = run_with_previews(refinement, inputs.scene, inputs.path, folder)
    after, before = refinement.gaussians(), inputs.scene
    held_out = tuple(held_out_psnr(scene, evidence, config.background) for scene in (before, after))
    keeps_refined = args.keep == "refined" or held_out[1] >= held_out[0]
    result = RefineResult(
        source=inputs.source.file,
        before=before,
        after=after,
        kept=after if keeps_refined else before,
        evidence=evidence,
        path=inputs.path,
        background=config.background,
        held_out=(held_out[0], held_out[1]),
        losses=steps,
    )
    scores = {"before": score_scene(before, result), "after": score_scene(after, result)}
    settings = json.loads(json.dumps(vars(args), default=str))
    settings["config"] = config.model_dump(mode="json")
    seconds = {**watch.seconds, **refinement.watch.seconds}
    with folder.filling() as target:
        summary = write_refined(target, result, scores, settings, seconds)
    print_refined(summary)
    print(f"report: {args.out / 'report.html'}")


def read_inputs(args: argparse.Namespace, device: torch.device) -> Inputs:
    """The scene, its cameras and its pictures; raises UserError for what is missing or can't be used."""
    source = open_scene(args.scene, args.cameras)
    if source.cameras is None:
        raise UserError(
            f"{source.file} has no cameras beside it, and `refine` looks at a scene from around its own path; name"
            " the path file that it was made with: --cameras camera_path.json"
        )
    check_scene(source.gaussians, str(source.file))
    path = source.cameras
    pictures = read_pictures(source, path, args.image, args.frames)
    return Inputs(source, source.gaussians.to(device), path, pictures)


def config_of(args: argparse.Namespace) -> RefineConfig:
    """The settings of a parsed command line; how many steps depends on the rest of them unless it is said."""
    overrides = [*(["redraw={}"] if args.redraw else []), *args.overrides]
    overrides += [f"iterations={args.steps}"] if args.steps else []
    config = load_config(None, overrides, RefineConfig)
    if "iterations" in config.model_fields_set:
        return config
    if config.redraw is not None or args.prior == NO_PRIOR:
        return config.model_copy(update={"iterations": FITTED_STEPS})
    if args.prior == VIDEO_PRIOR:
        return config.model_copy(update={"iterations": VIDEO_STEPS})
    return config


def what_is_asked(
    args: argparse.Namespace, config: RefineConfig, source: SceneSource
) -> dict[str, str]:
    """What has to be the same for a run to be continued."""
    files = {"scene": source.file, "cameras": source.cameras_file, "image": args.image}
    files["frames"] = args.frames or video_beside(source)
    request = request_of(args, files, also_changes=("steps", "overrides"))
    request["config"] = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return request


def print_refined(summary: dict[str, Any]) -> None:
    """Before and after, which was kept, and where the time went."""
    table = Table("", "before", "after")
    for name in summary["scores"]["before"]:
        row = [summary["scores"][when][name] for when in ("before", "after")]
        table.add_row(name, *(f"{cell['psnr']:.2f} dB / {cell['ssim']:.3f}" for cell in row))
    table.add_row("held out", *(f"{value:.2f} dB" for value in summary["held_out_psnr"]))
    table.add_row("Gaussians", *(f"{count:,}" for count in summary["num_gaussians"]))
    console = Console()
    console.print(table)
    seconds = summary["seconds"]
    shares = {name: seconds.get(name, 0.0) for name in ("rasteriser", "prior", "optimiser")}
    total = sum(shares.values()) or 1.0
    told = ", ".join(f"{name} {value / total:.0%}" for name, value in shares.items())
    memory = f"peak memory {summary['peak_memory_mib']:,} MiB"
    console.print(
        f"kept: {summary['kept']}; {total:.1f} s in steps: {told}; {memory}", highlight=False
    )
