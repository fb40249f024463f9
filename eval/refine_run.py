"""Runs what `refine` was asked for, from its parsed command line to files."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from configs.errors import UserError
from configs.loader import load_config
from data.cameras import Cameras
from data.importers.photo import open_photo
from data.progress_bars import stage_bars
from eval.clips.frames import FrameFiles, FrameOptions
from eval.generate_run import memory_explained, open_pipeline
from eval.pages.refine_outputs import RefineResult, preview, score_scene, write_refined
from eval.refine_folder import RefineFolder, content_digest
from eval.scene_source import CAMERAS_NAME, SceneSource, open_scene
from models.device_choice import device_of
from models.gaussians import Gaussians
from models.meshing.extraction import check_scene
from models.priors.interface import DiffusionPrior
from models.stopwatch import Stopwatch
from models.video.clip_chain import median_depth
from train.distillation.cameras import CameraSampler
from train.distillation.evidence import check_input, gather_evidence, held_out_psnr
from train.distillation.refine import RefineConfig, Refinement, RefineStep
from train.randomness import derive_seed

PREVIEWS = 10
"""How often a preview is renewed and the state saved in a run."""
VIDEO_GUIDANCE = 5.0
"""DreamGaussian's, for priors that are shown an image."""
CLIP_NAME = "clip"
"""Of the folder of frames that `generate` writes beside its scene."""
NO_PRIOR, VIDEO_PRIOR = "none", "video"


@dataclass(frozen=True)
class Inputs:
    """All that a refinement looks at.

    path: the scene's cameras. frames: one a view of the path, or the first alone. judge_only: all but the first are
    there to judge by.
    """

    source: SceneSource
    scene: Gaussians
    path: Cameras
    frames: Float[Tensor, "v 3 h w"]
    judge_only: bool = False


def refine_scene(args: argparse.Namespace) -> None:
    """Refines the scene of a parsed command line of `refine`, and prints what came of it."""
    console = Console(stderr=True)
    watch = Stopwatch(device_of(args.device))
    overrides = [*args.overrides, *([f"iterations={args.steps}"] if args.steps else [])]
    config = load_config(None, overrides, RefineConfig)
    inputs = read_inputs(args, watch.device)
    generator = torch.Generator().manual_seed(derive_seed("evidence", args.seed))
    evidence = gather_evidence(
        inputs.frames,
        inputs.path.select(list(range(len(inputs.frames)))),
        config.evidence,
        generator,
        inputs.judge_only,
    ).to(watch.device)
    if inputs.judge_only:
        console.print("the video beside the scene judges its other views; no step looks at it")
    check_input(inputs.scene, evidence, config.background, str(args.image), str(inputs.source.file))
    found = median_depth(inputs.scene, inputs.path.select(0).to(watch.device))
    if found is None:
        console.print(
            "the scene fills too little of its first view to measure its depth: it counts as 1"
        )
    depth = found or 1.0
    folder = RefineFolder(args.out, request_of(args, config))
    with watch("load prior"):
        prior = make_prior(args, inputs, depth, watch.device)
    sampler = CameraSampler(inputs.path, depth, config.cameras)
    refinement = Refinement(inputs.scene, sampler, evidence, prior, config, args.seed)
    folder.open()
    if (state := folder.load_state()) is not None:
        refinement.load_state(state)
        console.print(f"going on from step {refinement.num_steps} of {config.iterations}")
    with memory_explained(args):
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
    if not source.gaussians.num_gaussians:
        raise UserError(f"{source.file} holds no Gaussians; there is nothing to refine")
    check_scene(source.gaussians, str(source.file))
    path = source.cameras
    image = open_photo(args.image, path.height, path.width).frame
    frames = image[None]
    clip = args.frames or video_beside(source)
    if clip is not None:
        size = (path.height, path.width)
        video = FrameFiles(clip, FrameOptions(size=size)).load(0).frames
        if len(video) != path.num_views:
            raise UserError(
                f"{clip} has {len(video)} frames, but the path of {source.file} has {path.num_views} cameras; expected"
                " the video that the scene was made with, a frame for each: name it with --frames"
            )
        frames = torch.cat([frames, video[1:]])
    judge_only = args.frames is None and len(frames) > 1
    return Inputs(source, source.gaussians.to(device), path, frames, judge_only)


def video_beside(source: SceneSource) -> Path | None:
    """The frames that `generate` wrote beside its scene, where they and its cameras are there."""
    clip = source.file.parent / CLIP_NAME
    ours = source.cameras_file == source.file.parent / CAMERAS_NAME
    return clip if ours and (clip / "transforms.json").is_file() else None


def make_prior(
    args: argparse.Namespace, inputs: Inputs, depth: float, device: torch.device
) -> DiffusionPrior | None:
    """The prior that a command line names; raises UserError where it does not fit."""
    if args.prior == NO_PRIOR:
        return None
    if args.prior == VIDEO_PRIOR:
        if args.prompt is not None:
            raise UserError("--prompt has no effect with the video prior; leave it out")
        from models.priors.video import VideoPrior
        from models.video.guidance import GuidanceConfig

        if args.offload is not None:
            raise UserError(
                "--offload is for `generate`; a refinement asks its prior at every step: leave it out, and on a small"
                " GPU say --one-by-one or --dtype bfloat16"
            )
        pipeline = open_pipeline(args)
        scale = VIDEO_GUIDANCE if args.guidance is None else args.guidance
        guidance = GuidanceConfig(
            image=scale,
            camera=scale,
            evaluation="sequential" if args.one_by_one else "batched",
        )
        return VideoPrior(pipeline, inputs.frames[0], depth, guidance)
    from models.priors.image import TEXT_GUIDANCE, load_image_prior
    from models.priors.image_pose import POSE_GUIDANCE, is_posed_pipeline, load_posed_image_prior

    if is_posed_pipeline(args.prior):
        if args.prompt is not None:
            raise UserError(f"--prior {args.prior} is told by the image; leave --prompt out")
        return load_posed_image_prior(
            Path(args.prior),
            inputs.frames[0],
            inputs.path.select(0),
            depth,
            guidance=POSE_GUIDANCE if args.guidance is None else args.guidance,
            device=device,
        )
    if args.prompt is None:
        raise UserError(f"--prior {args.prior} is told what to draw in words; say it with --prompt")
    scale = TEXT_GUIDANCE if args.guidance is None else args.guidance
    return load_image_prior(
        args.prior,
        args.prompt,
        guidance=scale,
        proportions=(inputs.path.height, inputs.path.width),
        device=device,
    )


def run_with_previews(
    refinement: Refinement, before: Gaussians, path: Cameras, folder: RefineFolder
) -> list[RefineStep]:
    """Takes the steps that are left, with a progress bar, previews along `path`, and saved states."""
    steps: list[RefineStep] = []
    total = refinement.config.iterations
    every = max(1, total // PREVIEWS)
    with stage_bars() as progress:

        def on_step(step: RefineStep) -> None:
            steps.append(step)
            progress("refining", step.step + 1, total)
            if (step.step + 1) % every == 0:
                save()

        def save() -> None:
            picture = preview(before, refinement.gaussians(), path, refinement.config.background)
            folder.save(refinement.state(), picture)

        try:
            refinement.run(on_step)
        except KeyboardInterrupt:
            save()
            Console(stderr=True).print(
                f"stopped at step {refinement.num_steps} of {total}; the same command goes on from there"
            )
            raise
    return steps


def request_of(args: argparse.Namespace, config: RefineConfig) -> dict[str, Any]:
    """What has to be the same for a run to be continued."""
    ignored = {"out", "steps", "overrides", "keep"}
    request = {name: str(value) for name, value in vars(args).items() if name not in ignored}
    request["config"] = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    for name in ("scene", "image", "frames", "cameras"):
        if (path := getattr(args, name)) is not None:
            request[f"content of {name}"] = content_digest(path)
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
    console.print(f"kept: {summary['kept']}; {total:.1f} s in steps: {told}", highlight=False)
