"""The `reconstruct` command: a clip with cameras becomes a scene of 3D Gaussians."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from configs.errors import EXIT_DONE, UserError, run_command

DESCRIPTION = """\
Turns frames with cameras into 3D Gaussians in one forward pass. CLIP is one of
  a shard folder made by `prepare`        the clip is chosen with --clip
  a folder with transforms.json           nerfstudio's or NeRF-synthetic's
  a COLMAP model                          with its images in `images` beside it, or --images
  a video file with --cameras             a transforms.json with one entry a frame

From a longer capture, neighbouring frames go in, and frames between and around them are held out to judge by.

  ./launch.sh reconstruct runs/shards/capture --clip 2
  ./launch.sh reconstruct my_capture --stride 2 --out runs/my_scene
  ./launch.sh reconstruct my_capture --polish 5            then fits the frames for 5 s from LaLRM's Gaussians
  ./launch.sh reconstruct my_capture --fit --size 200x304  no model: Gaussians fitted to all of the capture's frames
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    args = build_parser().parse_args(argv)
    if args.out is None:
        args.out = Path("runs/reconstruct") / f"{args.source.absolute().name}_{args.clip}"
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(
            f"{args.out} exists; give another folder with --out, or remove that one first"
        )

    if args.fit:
        from eval.fit_run import fit_and_write

        fit_and_write(args)
        print(f"report: {args.out / 'report.html'}")
        return EXIT_DONE
    if args.overrides:
        raise UserError("--set is for --fit; leave it out, or add --fit")

    from data.importers.fresh_folder import fresh_folder
    from data.progress_bars import stage_bars
    from eval.clip_source import CutOptions, open_clip_source
    from eval.pages.scene_outputs import BYTES_NEEDED
    from eval.reconstruct_run import reconstruct_and_write
    from eval.reconstruction import load_models
    from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM

    models = load_models(args.autoencoder or TINY_AUTOENCODER, args.lalrm or TINY_LALRM)
    height, width = args.size
    options = CutOptions(
        height=height,
        width=width,
        num_frames=args.frames,
        stride=args.stride,
        number=args.clip,
        num_held_out=args.held_out,
    )
    with stage_bars() as progress:
        clip = open_clip_source(
            args.source, options, cameras=args.cameras, images=args.images, progress=progress
        )
    with fresh_folder(args.out, BYTES_NEEDED) as folder:
        reconstruct_and_write(
            folder,
            clip,
            models,
            title=f"Scene from {clip.source}",
            settings={name: str(value) for name, value in vars(args).items()},
            with_fit=not args.no_fit,
            polish_seconds=args.polish,
        )
    print(f"report: {args.out / 'report.html'}")
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line of `reconstruct`."""
    from data.command_options import image_size, natural, positive

    parser = argparse.ArgumentParser(
        prog="launch.sh reconstruct",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="CLIP")
    parser.add_argument("--out", type=Path, help="default: runs/reconstruct/NAME_CLIP")
    parser.add_argument("--clip", type=natural, default=0, help="which clip, from 0 (default: 0)")
    parser.add_argument("--cameras", type=Path, help="transforms.json of a video")
    parser.add_argument("--images", type=Path, help="image folder of a COLMAP model")
    parser.add_argument(
        "--frames", type=positive, default=17, help="frames that go in, 8k+1 (default: 17)"
    )
    parser.add_argument(
        "--stride", type=positive, default=1, help="take every so-manieth frame (default: 1)"
    )
    parser.add_argument(
        "--held-out", type=natural, default=8, help="views to judge by, at most (default: 8)"
    )
    parser.add_argument(
        "--size", type=image_size, default=(64, 96), metavar="HxW", help="default: 64x96"
    )
    parser.add_argument("--no-fit", action="store_true", help="leave out the per-scene baseline")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--polish",
        type=_seconds,
        metavar="SECONDS",
        help="fit the frames for so long from LaLRM's Gaussians",
    )
    ways.add_argument(
        "--fit",
        action="store_true",
        help="fit Gaussians to the whole capture, without LaLRM; every eighth frame is held out",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of --fit, such as iterations=5000 or density.max_gaussians=100000",
    )
    parser.add_argument(
        "--autoencoder", type=Path, help="weights folder (default: the bundled one)"
    )
    parser.add_argument("--lalrm", type=Path, help="weights folder (default: the bundled one)")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    run_command(main)
