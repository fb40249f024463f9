"""The part of `prepare` that makes shards of whole data sets: RealEstate10K, ACID and DL3DV."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, UserError
from data.command_options import (
    add_output_options,
    existing_choice,
    natural,
    positive,
    sample_format,
    usable_cores,
)
from data.work_share import add_share_options, own_share

if TYPE_CHECKING:
    from data.importers.posed_scene import SceneSet


@dataclass(frozen=True)
class SetKind:
    """A data set that `prepare` knows. strides: Wonderland's, sec. 4.1."""

    summary: str
    strides: tuple[int, ...]
    has_camera_files: bool


SETS = {
    "realestate10k": SetKind("RealEstate10K: camera files and videos, or chunks", (3, 4, 5), True),
    "acid": SetKind("ACID: as RealEstate10K", (1, 2), True),
    "dl3dv": SetKind("DL3DV: transforms.json and images, or chunks", (1,), False),
}

CAMERA_FILES = """\
  FOLDER holds camera files KEY.txt (the set's own), and --media their frames: KEY/TIMESTAMP.png (or .jpg),
  KEY.mp4 cut to the scene's frames, or the whole VIDEO_ID.mp4 (or .webm, .mkv), in which the timestamps tell them;
  or FOLDER holds chunks as pixelSplat and MVSplat read them: 000000.torch ... and index.json.

  ./launch.sh prepare {kind} {title}/train --media videos --size 256x384 --out shards/{kind}
  ./launch.sh prepare {kind} {kind}_chunks/train --size 256x256 --out shards/{kind}
"""
TRANSFORMS = """\
  FOLDER holds a folder for each scene (up to three folders down) with transforms.json and images; images_8, images_4
  and images_2 beside the folder that the file names are used instead of it where they are large enough. Lens
  distortion is undone. Or FOLDER holds chunks as MVSplat and DepthSplat read them: 000000.torch ... and index.json.

  ./launch.sh prepare {kind} DL3DV-10K --size 480x720 --out shards/{kind}
"""
RULES = """\

Clips are cut one after another from each scene, each at one of --strides, with extra views from between and around
its frames. Their unit of length is the depth that a plane sweep tells. Left out, counted by reason in the report and
listed in left_out.jsonl: scenes that can't be read (a broken camera file, a damaged video, missing frames), that are
too short or too small, and clips whose camera jumps, hardly moves, or does not fit its frames.
With --nproc N, under srun or in a SLURM job array each process makes its share; the last one finishes the folder.
"""


def add_set_commands(commands: Any) -> None:
    """Adds a sub-command for each of `SETS`; `commands` is what `add_subparsers` gave."""
    for kind, about in SETS.items():
        layout = CAMERA_FILES if about.has_camera_files else TRANSFORMS
        title = {"acid": "ACID"}.get(kind, "RealEstate10K")
        command = commands.add_parser(
            kind,
            help=about.summary,
            description=f"{about.summary}.\n\n{layout.format(kind=kind, title=title)}{RULES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("path", type=Path, metavar="FOLDER")
        if about.has_camera_files:
            command.add_argument(
                "--media", type=Path, metavar="FOLDER", help="videos or frames (default: FOLDER)"
            )
        else:
            command.add_argument(
                "--images",
                metavar="NAME",
                help="image folder in each scene's, such as images_4 (default: the smallest that will do)",
            )
        _add_rule_options(command, about)
        add_output_options(command, frames=49, size=(480, 720), image="jpeg")
        add_share_options(command)


def prepare_set(args: argparse.Namespace) -> int:
    """A data set to shards, or this process's share of them."""
    from data.captions import read_captions
    from data.progress_bars import progress_bar
    from data.scene_clips import ClipRules
    from data.scene_shards import SceneShards, scenes_account
    from data.shard_report import report, report_share
    from data.views import check_frame_count

    share = own_share(args)
    rules = ClipRules(
        height=args.size[0],
        width=args.size[1],
        num_frames=check_frame_count(args.frames, "--frames"),
        strides=tuple(args.strides),
        overlap=args.overlap,
        num_extra=args.extra,
        enlarge=args.enlarge,
        min_travel=args.min_travel,
        keep_without_parallax=args.keep_without_parallax,
    )
    shards = SceneShards(
        args.out,
        open_set(args),
        args.command,
        rules,
        sample_format=sample_format(args),
        captions=None if args.captions is None else read_captions(args.captions),
        scenes_per_shard=args.scenes_per_shard,
        existing=existing_choice(args),
        share=share,
    )
    to_do = shards.num_to_do
    workers = args.workers or max(1, usable_cores() // share.local_count)
    started = time.monotonic()
    with progress_bar("scenes", shards.num_own, shown=share.is_first) as advance:
        advance(shards.num_own - to_do)
        shards.write(min(workers, to_do), advance)
    seconds = time.monotonic() - started
    speed = f"{seconds:.1f} s, {60 * to_do / max(seconds, 1e-9):.1f} scenes a minute"
    if not shards.is_finished:
        report_share(args.out, share, speed)
        return EXIT_DONE
    report(args.out, {**scenes_account(args.out, shards.num_scenes), "time": speed})
    return EXIT_DONE


def open_set(args: argparse.Namespace) -> SceneSet:
    """The scenes that a command line names, by what is in the folder; raises UserError where there is none."""
    from data.importers.camera_files import CameraFileScenes
    from data.importers.scene_chunks import ChunkScenes
    from data.importers.transforms_scenes import TransformsScenes

    if not args.path.is_dir():
        raise UserError(f"{args.path}: no such folder")
    if any(args.path.glob("*.torch")):
        return ChunkScenes(args.path)
    if SETS[args.command].has_camera_files:
        return CameraFileScenes(args.path, args.media or args.path)
    return TransformsScenes(args.path, args.images)


def share_below_one(text: str) -> float:
    """A number of at least 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 and below 1")
    return value


def length(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _add_rule_options(command: argparse.ArgumentParser, about: SetKind) -> None:
    shown = " ".join(map(str, about.strides))
    command.add_argument(
        "--strides",
        type=positive,
        nargs="+",
        default=list(about.strides),
        help=f"scene frames from one frame of a clip to the next, one of these for each clip (default: {shown})",
    )
    command.add_argument(
        "--overlap",
        type=share_below_one,
        default=0.0,
        metavar="SHARE",
        help="how much of a clip the next of its scene shows again, for more clips (default: 0)",
    )
    command.add_argument(
        "--extra", type=natural, default=24, help="extra views a clip, at most (default: 24)"
    )
    command.add_argument(
        "--enlarge", action="store_true", help="take frames that are smaller than --size"
    )
    command.add_argument(
        "--min-travel",
        type=length,
        default=0.05,
        metavar="DEPTHS",
        help="how far the camera must get from where it starts, in median depths (default: 0.05)",
    )
    command.add_argument(
        "--keep-without-parallax",
        action="store_true",
        help="keep clips whose depth can't be told, in a unit of length guessed from the camera's travel",
    )
    command.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help='captions of scenes as JSON: {"KEY": "text"}; others have none',
    )
    command.add_argument(
        "--workers", type=positive, help="processes that read scenes (default: all cores)"
    )
    command.add_argument(
        "--scenes-per-shard",
        type=positive,
        default=32,
        help="scenes whose clips share a tar file, the unit of resuming (default: 32)",
    )
