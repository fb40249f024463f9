"""What `generate --prompt ... --prior NAME` does: words become a scene, by distillation alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from configs.errors import UserError
from configs.loader import load_config
from data.cameras import Cameras
from data.durable_files import write_durably
from data.importers.path_json import save_camera_path
from data.importers.video import write_video
from eval.generate_run import memory_explained
from eval.pages.clip_pictures import spread
from eval.pages.html_report import Report
from eval.pages.pictures import color_depth, depth_range
from eval.pages.refine_outputs import draw
from eval.pages.scene_outputs import VIEWER_HELP
from eval.pages.viewer_html import write_viewer
from eval.refine_steps import run_with_previews
from eval.unfinished_folder import UnfinishedFolder
from models.device_choice import device_of
from models.gaussians import Gaussians
from models.priors.image import TEXT_GUIDANCE, load_image_prior
from models.scenes.files import save_scene
from models.stopwatch import Stopwatch
from train.distillation.refine import RefineConfig, Refinement
from train.distillation.text_start import AroundSampler, TextStartConfig, ball_of_gaussians
from train.fitting.density import DensityConfig
from train.fitting.parameters import FitRates
from train.randomness import derive_seed
from train.run_folder import describe_environment

FILES = {
    "scene.ply": "the Gaussians, for any 3DGS viewer",
    "scene.spz": "the same, compressed, for viewers on the web",
    "viewer.html": "the scene in 3D",
    "turntable.mp4": "once around it",
    "camera_path.json": "the cameras of that",
    "metrics.json": "all numbers",
}
NUM_TURNTABLE, FPS = 48, 12
NUM_SHOWN = 6
AT_ONCE = 8


class TextSceneConfig(RefineConfig):
    """DreamGaussian's for text, as far as its 500 steps go: densified every 50 steps, nothing but the prior."""

    rates: FitRates = FitRates(means=1e-3, quats=5e-3, scales=5e-3, opacities=5e-2, colors=1e-2)
    density: DensityConfig | None = DensityConfig(
        start=0, every=50, grow_gradient=0.01, scene_scale=1.0, max_gaussians=None
    )
    start: TextStartConfig = TextStartConfig()


def generate_from_text(args: argparse.Namespace) -> None:
    """Makes the scene of a parsed command line of `generate` with --prior and no image."""
    with memory_explained(()):
        _generate_from_text(args)


def _generate_from_text(args: argparse.Namespace) -> None:
    if args.images:
        raise UserError(
            "--prior makes a scene from words alone; leave the image out, or refine the scene of an image:"
            " ./launch.sh refine SCENE --image IMAGE --prior NAME"
        )
    if not args.prompt:
        raise UserError(f"--prior {args.prior} is told what to draw in words; say it with --prompt")
    console = Console(stderr=True)
    device = device_of(args.device)
    watch = Stopwatch(device)
    overrides = [*args.overrides, *([f"iterations={args.steps}"] if args.steps else [])]
    config = load_config(None, overrides, TextSceneConfig)
    request = {"prompt": args.prompt, "prior": args.prior, "seed": args.seed}
    request |= {"negative prompt": args.negative_prompt, "guidance": args.text_guidance}
    request["config"] = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    folder = UnfinishedFolder(args.out, request)
    with watch("load prior"):
        prior = load_image_prior(
            args.prior,
            args.prompt,
            negative_prompt=args.negative_prompt or "",
            guidance=TEXT_GUIDANCE if args.text_guidance is None else args.text_guidance,
            device=device,
        )
    sampler = AroundSampler(config.start, *prior.frame_size)
    generator = torch.Generator().manual_seed(derive_seed("text start", args.seed))
    start = ball_of_gaussians(config.start, generator).to(device)
    refinement = Refinement(start, sampler, None, prior, config, args.seed)
    folder.open()
    if (state := folder.load_state()) is not None:
        refinement.load_state(state)
        console.print(f"going on from step {refinement.num_steps} of {config.iterations}")
    around = sampler.turntable(NUM_TURNTABLE)
    run_with_previews(refinement, start, around, folder)
    scene = refinement.gaussians()
    settings = json.loads(json.dumps(vars(args), default=str))
    settings["config"] = config.model_dump(mode="json")
    with folder.filling() as target:
        seconds = {**watch.seconds, **refinement.watch.seconds}
        write_text_scene(target, scene, around, args.prompt, config, settings, seconds)
    console.print(f"{scene.num_gaussians:,} Gaussians")
    print(f"report: {args.out / 'report.html'}")


def write_text_scene(
    folder: Path,
    scene: Gaussians,
    around: Cameras,
    prompt: str,
    config: TextSceneConfig,
    settings: dict[str, Any],
    seconds: dict[str, float],
) -> None:
    """Writes `FILES` and `report.html` into an existing folder."""
    for name in ("scene.ply", "scene.spz"):
        save_scene(scene, folder / name)
    write_viewer(folder / "viewer.html", scene, around)
    save_camera_path(around, folder / "camera_path.json")
    frames = torch.cat(
        [
            draw(
                scene, around.select(slice(first, first + AT_ONCE)), config.background
            ).frames.cpu()
            for first in range(0, around.num_views, AT_ONCE)
        ]
    )
    write_video(frames, folder / "turntable.mp4", FPS)
    summary = {
        "prompt": prompt,
        "num_gaussians": scene.num_gaussians,
        "seconds": seconds,
        "settings": settings,
        "environment": describe_environment(),
    }
    write_durably(folder / "metrics.json", json.dumps(summary, indent=1).encode())
    report = Report(
        f"“{prompt}”",
        f"{scene.num_gaussians:,} Gaussians, distilled from {settings['prior']} in {config.iterations} steps.",
    )
    report.video(folder / "turntable.mp4", "Once around.")
    report.viewer(folder / "viewer.html", VIEWER_HELP)
    report.links(FILES)
    views = spread(range(around.num_views), NUM_SHOWN)
    drawn = draw(scene, around.select(views), config.background)
    depth = drawn.expected_depth.cpu()
    span = depth_range(depth) if bool((depth > 0).any()) else (None, None)
    report.pictures(
        [list(drawn.frames.cpu()), [color_depth(one, *span) for one in depth]],
        ["scene", "depth"],
        [f"{360 * view / around.num_views:.0f} degrees" for view in views],
    )
    report.section("Seconds")
    report.table(["stage", "seconds"], [[name, f"{value:.2f}"] for name, value in seconds.items()])
    report.details("Settings, versions", json.dumps(summary, indent=1))
    report.write(folder / "report.html")
