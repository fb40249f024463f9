"""Runs what `generate` was asked for, from its parsed command line to files."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from data.durable_files import write_durably
from data.importers.fresh_folder import fresh_folder
from data.importers.images import image_size
from data.importers.photo import Photo
from data.progress_bars import stage_bars
from data.work_share import ALL_WORK, WorkShare
from eval.cameras.followed import pose_estimator
from eval.pages.generated_outputs import (
    preview_strip,
    print_generated,
    write_generated,
)
from eval.pages.pictures import png_bytes
from eval.pages.scene_outputs import BYTES_NEEDED
from eval.path_argument import path_from_argument
from models.bundled_weights import TINY_PIPELINE
from models.generated_scene import GeneratedScene
from models.pipeline import ImageToScenePipeline
from models.pipeline_files import PartFolders
from models.share_device import share_device
from models.video.sampling import SamplingConfig, SamplingStep

STAND_IN_SIZE, STAND_IN_FRAMES = (64, 96), 49
"""Of the camera and the video that a path is first checked with."""

PREVIEWS = 10
"""How often a preview is renewed in a run, at most."""


@dataclass(frozen=True)
class Job:
    """One scene to make. folder: its name within the output folder; "." where it is the only one."""

    photo: Photo
    seed: int
    folder: str


def generate_scenes(args: argparse.Namespace) -> None:
    """Makes the scenes of a parsed command line of `generate`, and prints where they are."""
    check_request(args)
    started = time.monotonic()
    pipeline = open_pipeline(args)
    other_seconds = {"load models": time.monotonic() - started}
    sampling = sampling_of(args, pipeline.sampling)
    jobs = list_jobs(args, pipeline)
    console = Console(stderr=True)
    for photo in {job.photo.source: job.photo for job in jobs}.values():
        console.print(f"{photo.source}: {'; '.join(photo.notes)}", highlight=False)
    settings = json.loads(json.dumps(vars(args), default=str))
    settings["sampling"] = sampling.model_dump(mode="json")
    with fresh_folder(args.out, len(jobs) * BYTES_NEEDED) as folder:
        for start in range(0, len(jobs), args.batch):
            batch = jobs[start : start + args.batch]
            for job, scene in zip(batch, sample(batch, args, pipeline, sampling), strict=True):
                with console.status("writing scene, videos, viewer and report"):
                    started = time.monotonic()
                    target = folder / job.folder
                    target.mkdir(exist_ok=True)
                    summary = write_generated(
                        target,
                        scene,
                        job.photo,
                        args.path,
                        {**settings, "seed": job.seed},
                        other_seconds=other_seconds,
                    )
                    write_seconds = time.monotonic() - started
                for note in scene.notes[len(job.photo.notes) :]:
                    console.print(note, highlight=False)
                print_generated(scene, summary, write_seconds)
    for job in jobs:
        print(f"report: {args.out / job.folder / 'report.html'}")


def sample(
    jobs: list[Job],
    args: argparse.Namespace,
    pipeline: ImageToScenePipeline,
    sampling: SamplingConfig,
) -> list[GeneratedScene]:
    """The scenes of several jobs at once, with a progress bar and, if asked for, a preview."""
    num_frames = args.frames or pipeline.clip_frames
    paths = [camera_path(args, job.photo.camera, num_frames) for job in jobs]
    with stage_bars() as progress, memory_explained(sampling_cures(args)):

        def on_step(step: SamplingStep) -> None:
            progress("sampling video", step.done, step.total)
            show_preview(args.preview, step, pipeline)

        return pipeline.generate(
            [job.photo for job in jobs],
            paths,
            [job.seed for job in jobs],
            sampling=sampling,
            prompt=args.prompt,
            negative_prompt=args.negative_prompt,
            poses=pose_estimator(args.poses),
            on_step=on_step,
        )


def check_request(args: argparse.Namespace) -> None:
    """Raises UserError for images that are none and paths that make no sense, before weights are loaded."""
    for image in args.images:
        image_size(image)
    height, width = STAND_IN_SIZE
    lens = intrinsics_from_fov(45.0, height, width)
    camera = Cameras(torch.eye(4)[None], lens[None], height, width)
    camera_path(args, camera, args.frames or STAND_IN_FRAMES)


def camera_path(args: argparse.Namespace, first: Cameras, num_frames: int) -> Cameras:
    """The path that a command line names, from `first` on."""
    return path_from_argument(
        args.path,
        first,
        num_frames,
        amplitude=args.amplitude,
        easing=args.easing,
        scale=args.path_scale,
    )


def open_pipeline(args: argparse.Namespace, share: WorkShare = ALL_WORK) -> ImageToScenePipeline:
    """The pipeline that a command line names, on the device where it runs: of several processes, on its own."""
    has_gpu = torch.cuda.is_available()
    device = share_device(args.device, share)
    dtype = args.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    named = {name: getattr(args, name) for name in vars(PartFolders())}
    pipeline = ImageToScenePipeline.from_pretrained(
        args.pipeline or TINY_PIPELINE,
        parts=PartFolders(**named),
        dtype=getattr(torch, dtype),
    )
    if args.offload:
        pipeline.offload(args.offload, device if has_gpu else None)
        return pipeline
    return pipeline.to(device)


def sampling_of(args: argparse.Namespace, defaults: SamplingConfig) -> SamplingConfig:
    """The pipeline's sampling with what the command line says otherwise; raises UserError."""
    tree = defaults.model_dump()
    for name in ("steps", "scheduler"):
        if getattr(args, name) is not None:
            tree[name] = getattr(args, name)
    for name in ("image", "camera", "text"):
        if (scale := getattr(args, f"{name}_guidance")) is not None:
            tree["guidance"][name] = scale
    if args.one_by_one:
        tree["guidance"]["evaluation"] = "sequential"
    try:
        return SamplingConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = "-".join(str(part) for part in reversed(first["loc"]))
        raise UserError(f"--{name} is {first['input']}: {first['msg']}") from error


def list_jobs(args: argparse.Namespace, pipeline: ImageToScenePipeline) -> list[Job]:
    """Every image with every seed, each with a folder name of its own."""
    photos = [pipeline.photo(image, focal_35mm=args.focal) for image in args.images]
    seeds = range(args.seed, args.seed + args.samples)
    if len(photos) * len(seeds) == 1:
        return [Job(photos[0], args.seed, ".")]
    jobs: list[Job] = []
    for image, photo in zip(args.images, photos, strict=True):
        for seed in seeds:
            name = image.stem if len(seeds) == 1 else f"{image.stem}_seed{seed}"
            taken = {job.folder for job in jobs}
            numbered = (f"{name}_{number}" for number in range(2, len(jobs) + 3))
            free = name if name not in taken else next(n for n in numbered if n not in taken)
            jobs.append(Job(photo, seed, free))
    return jobs


def show_preview(path: Path | None, step: SamplingStep, pipeline: ImageToScenePipeline) -> None:
    """Renews the preview now and then, and at the end."""
    every = max(1, step.total // PREVIEWS)
    if path is not None and (step.done % every == 0 or step.done == step.total):
        write_durably(path, png_bytes(preview_strip(pipeline.preview(step.clean))))


@contextmanager
def memory_explained(cures: Sequence[str]) -> Iterator[None]:
    """Turns an accelerator's lack of memory into a UserError with what would help: `cures`, options to add."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = ", or ".join(cures) or "a smaller model, or a GPU with more memory"
        raise UserError(f"the GPU's memory is full; try {advice}") from error


def sampling_cures(args: argparse.Namespace) -> list[str]:
    """Options of `generate` that would lower the memory of what `args` asks for."""
    cures = ["--batch 1"] if getattr(args, "batch", 1) > 1 else []
    cures += [] if args.one_by_one else ["--one-by-one"]
    return cures + {None: ["--offload model"], "model": ["--offload sequential"]}.get(
        args.offload, []
    )
