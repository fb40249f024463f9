"""The prior that a command line names: `--prior video|PATH_OR_NAME|none`, for whatever is drawn anew with it."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from eval.generate import PART_OPTIONS
from eval.generate_run import open_pipeline
from models.gaussians import Gaussians
from models.priors.interface import DiffusionPrior
from models.video.clip_chain import median_depth

NO_PRIOR, VIDEO_PRIOR = "none", "video"


VIDEO_OPTIONS = ("pipeline", *PART_OPTIONS, "dtype", "one_by_one")
"""Of the command line, without effect on other priors."""


def check_prior_options(args: argparse.Namespace) -> None:
    """Raises UserError for an option that has no effect on the prior that is named, or is out of range."""
    if args.guidance is not None and args.guidance < 0:
        raise UserError(f"--guidance is {args.guidance:g}, expected 0 or more")
    if args.prior == NO_PRIOR:
        for name in ("redraw", "prompt", "guidance"):
            if getattr(args, name, None) not in (None, False):
                raise UserError(
                    f"--{name} needs a prior, but --prior is none; leave one of them out"
                )
    if args.offload is not None:
        raise UserError(
            "--offload is for `generate`; here the prior is asked again and again: leave it out, and on a small GPU"
            " say --one-by-one or --dtype bfloat16"
        )
    if args.prior == VIDEO_PRIOR:
        return
    for name in VIDEO_OPTIONS:
        if getattr(args, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for the video model, and has no effect with --prior {args.prior};"
                " leave it out"
            )


def memory_cures(args: argparse.Namespace) -> list[str]:
    """Options that would lower the memory of the prior that is named."""
    if args.prior != VIDEO_PRIOR:
        return []
    cures = [] if args.one_by_one else ["--one-by-one"]
    return cures + ([] if args.dtype == "bfloat16" else ["--dtype bfloat16"])


def depth_shown(scene: Gaussians, first: Cameras, console: Console) -> float:
    """Median depth of what a scene's first view shows, the unit that priors know it in [scene units].

    1, and said so, where it shows too little.
    """
    found = median_depth(scene, first.to(scene.means.device))
    if found is None:
        console.print(
            "the scene fills too little of its first view to measure its depth: it counts as 1"
        )
    return found or 1.0


def open_prior(
    args: argparse.Namespace,
    image: Float[Tensor, "3 h w"] | None,
    first: Cameras,
    depth: float,
    device: torch.device,
) -> DiffusionPrior | None:
    """The prior; None for "none". Raises UserError where it does not load, or does not fit.

    image: the scene's input, where one was given. first: its camera, else any that pictures have the proportions of.
    depth: of what it shows [scene units]. Unless told otherwise the video model is guided as it is in `generate`.
    """
    if args.prior == NO_PRIOR:
        return None
    if args.prior == VIDEO_PRIOR:
        if args.prompt is not None:
            raise UserError("--prompt has no effect with the video prior; leave it out")
        from models.priors.video import VideoPrior
        from models.video.guidance import GuidanceConfig

        frame = _needed(image, args.prior)
        pipeline = open_pipeline(args)
        guidance = pipeline.sampling.guidance
        if args.guidance is not None:
            guidance = GuidanceConfig(image=args.guidance, camera=args.guidance)
        if args.one_by_one:
            guidance = guidance.model_copy(update={"evaluation": "sequential"})
        return VideoPrior(pipeline, frame, depth, guidance)
    from models.priors.image import TEXT_GUIDANCE, load_image_prior
    from models.priors.image_pose import POSE_GUIDANCE, is_posed_pipeline, load_posed_image_prior

    if is_posed_pipeline(args.prior):
        if args.prompt is not None:
            raise UserError(f"--prior {args.prior} is told by the image; leave --prompt out")
        return load_posed_image_prior(
            Path(args.prior),
            _needed(image, args.prior),
            first,
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
        proportions=(first.height, first.width),
        device=device,
    )


def _needed(image: Float[Tensor, "3 h w"] | None, prior: str) -> Float[Tensor, "3 h w"]:
    if image is None:
        raise UserError(
            f"--prior {prior} is shown the image that the scene was made from; name it with --image"
        )
    return image
