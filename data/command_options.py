"""Options that the commands making shards share, and the kinds of values that they take. Imports nothing heavy."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.shard_parts import Existing


def image_size(text: str) -> tuple[int, int]:
    """Height and width of "64x96"; both multiples of 8, which the video autoencoder needs."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 64x96")
    height, width = int(parts[0]), int(parts[1])
    if min(height, width) < 8 or height % 8 or width % 8:
        raise argparse.ArgumentTypeError(f"{text!r}: height and width must be multiples of 8")
    return height, width


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_output_options(
    command: argparse.ArgumentParser,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    image: str = "png",
) -> None:
    """Adds what every set of clips is stored by: folder, size, frames, format of images and depth."""
    shown = f"{size[0]}x{size[1]}" if size else "64x96"
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="shard folder")
    command.add_argument(
        "--size",
        type=image_size,
        default=size,
        metavar="HxW",
        help=f"image size (default: {shown})",
    )
    command.add_argument(
        "--frames",
        type=positive,
        default=frames,
        help=f"frames along the path in each clip, 8k+1 (default: {frames or 17})",
    )
    add_image_options(command, image)
    add_existing_options(command)


def add_image_options(command: argparse.ArgumentParser, image: str = "png") -> None:
    """Adds `--image` and `--jpeg-quality`."""
    command.add_argument(
        "--image",
        choices=["png", "jpeg"],
        default=image,
        help="png keeps frames exactly to 8 bits; jpeg is smaller (default: %(default)s)",
    )
    command.add_argument(
        "--jpeg-quality", type=int, choices=range(1, 101), default=95, metavar="1-100"
    )


def add_clips_per_shard(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--clips-per-shard", type=positive, default=64, help="clips in a tar file (default: 64)"
    )


def add_depth_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--depth",
        choices=["float16", "float32", "none"],
        default="float16",
        help="how depth is stored where it is known (default: float16)",
    )


def add_existing_options(command: argparse.ArgumentParser) -> None:
    """Adds `--resume` and `--overwrite`, of which one may be given; see `existing_choice`."""
    existing = command.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume",
        action="store_true",
        help="go on after the finished shards of the same command; several processes always do",
    )
    existing.add_argument("--overwrite", action="store_true", help="replace what is there")


def existing_choice(args: argparse.Namespace) -> Existing:
    """What to do with shards that are there, as the command line says."""
    return "resume" if args.resume else "overwrite" if args.overwrite else "refuse"


def sample_format(args: argparse.Namespace) -> Any:
    """The `SampleFormat` that the command line says; without `--depth`, none is stored."""
    from data.shard_index import SampleFormat

    return SampleFormat(
        image=args.image, jpeg_quality=args.jpeg_quality, depth=getattr(args, "depth", "none")
    )
