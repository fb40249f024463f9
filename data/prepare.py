"""The `prepare` command: captures, videos and procedural scenes become shards, or shards are checked."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from configs.errors import EXIT_DONE, EXIT_USER, run_command

DESCRIPTION = """\
Makes a folder of shards (WebDataset tar files with an index) that `train`, `score` and `reconstruct` read.

  ./launch.sh prepare procedural --clips 2000 --out runs/shards/train
  ./launch.sh prepare procedural --clips 64 --seed 1000000 --out runs/shards/val
  ./launch.sh prepare transforms my_capture/transforms.json --out runs/shards/capture
  ./launch.sh prepare --check runs/shards/train

Models make shards too, and what shards are given; each of these has its own --help:

  ./launch.sh prepare generated --clips 500 --out runs/shards/generated   clips that the video model makes
  ./launch.sh prepare latents runs/shards/train     latents of a video autoencoder, to train faster
  ./launch.sh prepare text runs/shards/train --encoder FOLDER   text embeddings of the clips' captions
"""

SEED_HELP = """\
seed of the first clip; clip i has seed SEED + i and is a function of its seed and the sizes alone, so sets
whose ranges of seeds don't overlap share no scene: give training and validation ranges far apart"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.check is not None:
        return check(args.check)
    if args.command is None:
        parser.error(
            "say what to prepare (procedural, photos, video, transforms, colmap) or --check"
        )
    if args.command == "procedural":
        return prepare_procedural(args)
    return prepare_capture(args)


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="launch.sh prepare", description=DESCRIPTION, formatter_class=raw
    )
    parser.add_argument(
        "--check",
        metavar="FOLDER",
        type=Path,
        help="read everything in a shard folder, hash it, name all that is damaged (exit code 2)",
    )
    commands = parser.add_subparsers(dest="command", metavar="SOURCE")

    command = commands.add_parser("procedural", help="endless made-up scenes with exact cameras")
    command.add_argument("--clips", type=positive, required=True, help="number of clips")
    command.add_argument("--seed", type=natural, default=0, help=SEED_HELP)
    command.add_argument("--config", type=Path, metavar="FILE", help="scene settings as YAML")
    command.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="scene settings (data/procedural/config.py), such as num_far=8 travel=[0.3,0.9]",
    )
    command.add_argument(
        "--workers", type=positive, default=usable_cores(), help="processes (default: %(default)s)"
    )
    _add_output_options(command)

    command = commands.add_parser("photos", help="a folder of photos without cameras")
    command.add_argument("path", type=Path, metavar="FOLDER")
    command.add_argument(
        "--ordered",
        action="store_true",
        help="the photos follow each other as in a video: match neighbours only, which is faster",
    )
    _add_capture_options(command)
    command = commands.add_parser("video", help="a video without cameras")
    command.add_argument("path", type=Path, metavar="FILE")
    command.add_argument(
        "--every", type=positive, default=1, help="place every so-manieth frame (default: 1)"
    )
    command.add_argument(
        "--max-video-frames",
        type=positive,
        default=120,
        help="and so many at most, from the start (default: %(default)s)",
    )
    _add_capture_options(command)
    command = commands.add_parser("transforms", help="nerfstudio's transforms.json and its images")
    command.add_argument("path", type=Path, metavar="FILE_OR_FOLDER")
    _add_capture_options(command)
    command = commands.add_parser("colmap", help="a COLMAP model and its images")
    command.add_argument("path", type=Path, metavar="MODEL_FOLDER")
    command.add_argument(
        "--images", type=Path, help="image folder (default: found beside the model)"
    )
    _add_capture_options(command)
    return parser


def prepare_procedural(args: argparse.Namespace) -> int:
    """Procedural clips to shards; resumable at any finished shard."""
    from configs.loader import load_config
    from data.procedural.config import SceneConfig
    from data.procedural_shards import procedural_recipe, write_procedural
    from data.progress_bars import progress_bar
    from data.shard_writing import ShardWriter
    from data.views import check_frame_count

    settings = list(args.settings)
    if args.size:
        settings += [f"height={args.size[0]}", f"width={args.size[1]}"]
    if args.frames:
        settings.append(f"num_frames={args.frames}")
    config = load_config(args.config, settings, SceneConfig)
    check_frame_count(config.num_frames, "--frames")
    writer = ShardWriter(
        args.out,
        recipe=procedural_recipe(args.seed, config),
        expected=args.clips,
        **_writer_options(args),
    )
    started = time.monotonic()
    with writer, progress_bar("clips", args.clips) as advance:
        done_before = writer.num_done
        advance(done_before)
        write_procedural(
            writer,
            args.clips,
            args.seed,
            config,
            num_workers=min(args.workers, args.clips),
            progress=advance,
        )
    seconds = time.monotonic() - started
    made = args.clips - done_before
    last_seed = args.seed + args.clips - 1
    report(
        args.out,
        {
            "seeds": f"{args.seed} to {last_seed}",
            "went on after": f"{done_before} clips" if done_before else "",
            "time": f"{seconds:.1f} s, {60 * made / max(seconds, 1e-9):.0f} clips a minute",
        },
    )
    return EXIT_DONE


def prepare_capture(args: argparse.Namespace) -> int:
    """A capture, with or without cameras, to shards; says what was left out."""
    from data.capture_reading import CaptureOptions, read_capture
    from data.clip_cutting import cut_capture
    from data.progress_bars import stage_bars
    from data.shard_writing import ShardWriter
    from data.views import check_frame_count

    check_frame_count(args.frames, "--frames")
    height, width = args.size
    recipe = {
        "source": args.command,
        "path": str(args.path.absolute()),
        "height": height,
        "width": width,
        "frames": args.frames,
        "stride": args.stride,
        "extra": args.extra,
    }
    started = time.monotonic()
    with ShardWriter(args.out, recipe=recipe, **_writer_options(args)) as writer:
        options = CaptureOptions(
            **{
                field.name: getattr(args, field.name)
                for field in fields(CaptureOptions)
                if hasattr(args, field.name)
            }
        )
        with stage_bars() as progress:
            capture, account = read_capture(
                args.command, args.path, height, width, options, progress
            )
        cut = cut_capture(capture, args.frames, args.stride, args.extra)
        for clip in cut.clips[writer.num_done :]:
            writer.add_clip(clip)
    account["frames with cameras"] = str(cut.num_frames)
    account["of them in no clip"] = _ranges(cut.unused) or "none"
    account["time"] = f"{time.monotonic() - started:.1f} s"
    report(args.out, account)
    return EXIT_DONE


def check(folder: Path) -> int:
    """Reads all of a shard folder and prints what was found; exit code 2 where anything is damaged."""
    from rich.console import Console

    from data.progress_bars import progress_bar
    from data.shard_index import ShardIndex
    from data.shards import verify

    with progress_bar("checked", len(ShardIndex.load(folder))) as advance:
        found = verify(folder, advance)
    report(folder, {"damaged": str(len(found.problems)) if found.problems else "nothing"})
    for problem in found.problems:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"damaged: {problem}", markup=False
        )
    return EXIT_USER if found.problems else EXIT_DONE


def report(folder: Path, account: dict[str, str]) -> None:
    """Prints a table of what the shard folder holds, followed by the non-empty rows of `account`."""
    from rich.console import Console
    from rich.table import Table

    from data.shard_index import ShardIndex

    content = ShardIndex.load(folder).content
    samples = [sample for shard in content.shards for sample in shard.samples]
    num_path = sum(sample.num_path_frames for sample in samples)
    num_extra = sum(sample.num_frames for sample in samples) - num_path
    num_bytes = sum(shard.bytes for shard in content.shards)
    table = Table("shards", str(folder), title=None)
    for name, value in {
        "clips": f"{content.num_clips} of {content.height}x{content.width}",
        "frames": f"{num_path} along paths, {num_extra} extra views",
        "files": f"{len(content.shards)} shards, {num_bytes / 1e6:.1f} MB",
        **account,
    }.items():
        if value:
            table.add_row(name, value)
    Console().print(table)


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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _add_capture_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--stride", type=positive, default=1, help="take every so-manieth frame (default: 1)"
    )
    command.add_argument(
        "--extra",
        type=natural,
        default=8,
        help="extra views a clip, from the frames between and around its own (default: 8)",
    )
    _add_output_options(command, frames=17, size=(64, 96))


def _add_output_options(
    command: argparse.ArgumentParser,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="shard folder")
    command.add_argument(
        "--size", type=image_size, default=size, metavar="HxW", help="image size (default: 64x96)"
    )
    command.add_argument(
        "--frames",
        type=positive,
        default=frames,
        help="frames along the path in each clip, 8k+1 (default: 17)",
    )
    command.add_argument(
        "--clips-per-shard", type=positive, default=64, help="clips in a tar file (default: 64)"
    )
    command.add_argument(
        "--image",
        choices=["png", "jpeg"],
        default="png",
        help="png keeps frames exactly to 8 bits; jpeg is smaller (default: png)",
    )
    command.add_argument(
        "--jpeg-quality", type=int, choices=range(1, 101), default=95, metavar="1-100"
    )
    command.add_argument(
        "--depth",
        choices=["float16", "float32", "none"],
        default="float16",
        help="how depth is stored where it is known (default: float16)",
    )
    existing = command.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="go on after the finished shards of the same command"
    )
    existing.add_argument("--overwrite", action="store_true", help="replace the shards in FOLDER")


def _writer_options(args: argparse.Namespace) -> dict[str, Any]:
    from data.shard_index import SampleFormat

    return {
        "sample_format": SampleFormat(
            image=args.image, jpeg_quality=args.jpeg_quality, depth=args.depth
        ),
        "clips_per_shard": args.clips_per_shard,
        "existing": "resume" if args.resume else "overwrite" if args.overwrite else "refuse",
    }


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers with runs shortened: "3, 5-9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(str(end) for end in run) for run in runs)


if __name__ == "__main__":
    run_command(main)
