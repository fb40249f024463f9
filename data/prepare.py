"""The `prepare` command: captures, videos and procedural scenes become shards, or shards are checked."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from configs.errors import EXIT_DONE, EXIT_USER, run_command
from data.command_options import (
    add_clips_per_shard,
    add_depth_option,
    add_output_options,
    existing_choice,
    natural,
    positive,
    sample_format,
    usable_cores,
)
from data.prepare_sets import SETS, add_set_commands, prepare_set
from data.work_share import add_share_options, own_share

DESCRIPTION = """\
Makes a folder of shards (WebDataset tar files with an index) that `train`, `score` and `reconstruct` read.

  ./launch.sh prepare realestate10k RealEstate10K/train --media videos --size 256x384 --out shards/re10k
  ./launch.sh prepare dl3dv DL3DV-10K --size 480x720 --out shards/dl3dv
  ./launch.sh prepare procedural --clips 2000 --out runs/shards/train
  ./launch.sh prepare procedural --clips 64 --seed 1000000 --out runs/shards/val
  ./launch.sh prepare transforms my_capture/transforms.json --out runs/shards/capture
  ./launch.sh prepare --check runs/shards/train

Models make shards too, and what shards are given; each of these has its own --help:

  ./launch.sh prepare generated --clips 500 --out runs/shards/generated   clips that the video model makes
  ./launch.sh prepare latents runs/shards/train     latents of a video autoencoder, to train faster
  ./launch.sh prepare text runs/shards/train --encoder FOLDER   text embeddings of the clips' captions

Sets of scenes, procedural clips, latents, text and generated clips can be made by many processes, each of which
takes its share and goes on where it was stopped:

  ./launch.sh prepare latents shards/re10k --device cuda --nproc 8
  sbatch --array=0-15 --wrap "./launch.sh prepare dl3dv DL3DV-10K --size 480x720 --out shards/dl3dv"
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
            "say what to prepare (realestate10k, acid, dl3dv, procedural, photos, video, transforms, colmap) or"
            " --check"
        )
    if args.command in SETS:
        return prepare_set(args)
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

    add_set_commands(commands)
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
        "--workers", type=positive, help="processes (default: as many as there are cores)"
    )
    _add_clip_options(command)
    add_share_options(command)

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
    from data.shard_report import report, report_share
    from data.shard_writing import ShardWriter
    from data.views import check_frame_count

    settings = list(args.settings)
    if args.size:
        settings += [f"height={args.size[0]}", f"width={args.size[1]}"]
    if args.frames:
        settings.append(f"num_frames={args.frames}")
    config = load_config(args.config, settings, SceneConfig)
    check_frame_count(config.num_frames, "--frames")
    share = own_share(args)
    writer = ShardWriter(
        args.out,
        expected=args.clips,
        recipe=procedural_recipe(args.seed, config),
        share=share,
        **_writer_options(args),
    )
    workers = args.workers or max(1, usable_cores() // share.local_count)
    started = time.monotonic()
    with writer:
        done_before, to_do = writer.num_done, writer.num_to_do
        with progress_bar("clips", writer.num_own, shown=share.is_first) as advance:
            advance(writer.num_own - to_do)
            write_procedural(
                writer, args.seed, config, num_workers=min(workers, to_do), progress=advance
            )
    seconds = time.monotonic() - started
    speed = f"{seconds:.1f} s, {60 * to_do / max(seconds, 1e-9):.0f} clips a minute"
    if not writer.is_finished:
        report_share(args.out, share, speed)
        return EXIT_DONE
    last_seed = args.seed + args.clips - 1
    report(
        args.out,
        {
            "seeds": f"{args.seed} to {last_seed}",
            "went on after": f"{done_before} clips" if done_before else "",
            "time": speed,
        },
    )
    return EXIT_DONE


def prepare_capture(args: argparse.Namespace) -> int:
    """A capture, with or without cameras, to shards; says what was left out."""
    from data.capture_reading import CaptureOptions, read_capture
    from data.clip_cutting import cut_capture
    from data.progress_bars import stage_bars
    from data.shard_parts import ShardParts
    from data.shard_report import report
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
    # Refused, where it must be, before the capture is read, which may take long.
    ShardParts(
        args.out, recipe=recipe, sample_format=sample_format(args), existing=existing_choice(args)
    )
    options = CaptureOptions(
        **{
            field.name: getattr(args, field.name)
            for field in fields(CaptureOptions)
            if hasattr(args, field.name)
        }
    )
    with stage_bars() as progress:
        capture, account = read_capture(args.command, args.path, height, width, options, progress)
    cut = cut_capture(capture, args.frames, args.stride, args.extra)
    writer = ShardWriter(args.out, expected=len(cut.clips), recipe=recipe, **_writer_options(args))
    with writer:
        for number in writer.numbers():
            writer.add_clip(cut.clips[number])
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
    from data.shard_report import report
    from data.shards import verify

    with progress_bar("checked", len(ShardIndex.load(folder))) as advance:
        found = verify(folder, advance)
    report(folder, {"damaged": str(len(found.problems)) if found.problems else "nothing"})
    for problem in found.problems:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"damaged: {problem}", markup=False
        )
    return EXIT_USER if found.problems else EXIT_DONE


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
    _add_clip_options(command, frames=17, size=(64, 96))


def _add_clip_options(
    command: argparse.ArgumentParser,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    add_output_options(command, frames=frames, size=size)
    add_clips_per_shard(command)
    add_depth_option(command)


def _writer_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "sample_format": sample_format(args),
        "clips_per_shard": args.clips_per_shard,
        "existing": existing_choice(args),
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
