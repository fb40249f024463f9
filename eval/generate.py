"""The `generate` command: an image and a camera path become a video, a scene of Gaussians, and a viewer."""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import EXIT_DONE, UserError, run_command

DESCRIPTION = """\
Turns a photograph and a camera path into a video, a 3D scene (PLY) and a viewer that opens in the browser.

  ./launch.sh generate photo.jpg --path dolly_zoom
  ./launch.sh generate photo.jpg --path orbit --amplitude -20 --easing smooth --out runs/my_scene
  ./launch.sh generate photo.jpg --path dolly:0.3+pan:20 --frames 33      two moves in a row, two clips that chain
  ./launch.sh generate photo.jpg --path orbit:30+dolly:0.3 --frames 33 --poses auto     cameras found from the frames
  ./launch.sh generate photo.jpg --path my_path.json
  ./launch.sh generate a.jpg b.png --samples 3                            six scenes
  ./launch.sh generate --list-paths
  ./launch.sh generate --prompt "a stone tower" --prior PATH_OR_NAME        words alone: distilled, no image

A photograph tells no depth, so the unit of length is defined: the median depth of what it shows is 1. Distances
along a path are in that unit: a dolly of 0.3 goes three tenths of the way to what is at the median depth.
"""

PART_OPTIONS = {
    "autoencoder": "video autoencoder",
    "video_base": "video model's base",
    "camera_branches": "video model's camera branches",
    "lalrm": "LaLRM",
    "text_encoder": "text encoder, with tokenizer/ and text_encoder/ in it",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_paths:
        from data.importers.path_files import describe_paths

        print(describe_paths())
        return EXIT_DONE
    if args.prior is not None:
        for name in ONLY_FOR_IMAGES:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} has no effect with --prior; leave it out")
        if args.out is None:
            args.out = Path("runs/generate") / _path_label(args.prompt or "")

        from eval.text_scene_run import generate_from_text

        generate_from_text(args)
        return EXIT_DONE
    if args.overrides:
        parser.error("--set is for scenes from words alone, with --prior")
    if not args.images:
        parser.error("name an image, or --list-paths")
    if args.out is None:
        args.out = Path("runs/generate") / f"{args.images[0].stem}_{_path_label(args.path)}"
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(
            f"{args.out} exists; give another folder with --out, or remove that one first"
        )

    from eval.generate_run import generate_scenes

    generate_scenes(args)
    return EXIT_DONE


ONLY_FOR_IMAGES = (
    *("path", "amplitude", "easing", "path_scale", "frames", "poses", "focal", "samples", "batch"),
    *("scheduler", "image_guidance", "camera_guidance", "dtype", "offload", "one_by_one"),
    *("preview", "pipeline", *PART_OPTIONS),
)
"""Options that make no sense for words alone."""
LONGEST_LABEL = 60
"""Characters; a file name has at most 255 bytes, and a character up to four."""


def _path_label(path: str) -> str:
    """A path argument as a part of a file name."""
    name = Path(path).stem if "/" in path or path.endswith((".json", ".txt")) else path
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:LONGEST_LABEL]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `generate`."""
    from data.command_options import natural, positive

    parser = argparse.ArgumentParser(
        prog="launch.sh generate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", type=Path, nargs="*", metavar="IMAGE", help="JPEG, PNG, WebP, TIFF ..."
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="default: runs/generate/IMAGE_PATH; with several scenes a folder each in it",
    )

    path = parser.add_argument_group("camera")
    path.add_argument(
        "--path",
        default="orbit",
        help="name, NAME:AMPLITUDE+NAME:AMPLITUDE, or a file (default: %(default)s)",
    )
    path.add_argument("--list-paths", action="store_true", help="show all paths, and stop")
    path.add_argument("--amplitude", type=float, help="in the path's unit; negative: the other way")
    path.add_argument(
        "--easing", default="linear", help="pace along the path (default: %(default)s)"
    )
    path.add_argument(
        "--path-scale", type=float, help="how many of a path file's units make one scene unit"
    )
    path.add_argument(
        "--frames",
        type=positive,
        help="8k+1; more than the model's clip has make clips that chain (default: one clip)",
    )
    path.add_argument(
        "--poses",
        choices=("commanded", "auto", "estimated"),
        default="commanded",
        help="where each clip's cameras are taken to be: on the path (default), where its frames say, or that only"
        " where they say that the path is not followed (auto); a path that only turns is taken as it is",
    )
    path.add_argument(
        "--focal",
        type=float,
        metavar="MM",
        help="the photograph's focal length as 35 mm equivalent (default: from EXIF, else 28)",
    )

    sampling = parser.add_argument_group("sampling (defaults are the pipeline's)")
    sampling.add_argument("--seed", type=natural, default=0, help="default: %(default)s")
    sampling.add_argument(
        "--samples",
        type=positive,
        default=1,
        help="scenes of each image, with seeds from --seed on",
    )
    sampling.add_argument(
        "--batch", type=positive, default=1, help="scenes at once, for more memory (default: 1)"
    )
    add_sampling_options(sampling)
    sampling.add_argument("--prompt", help="for pipelines with a text encoder")
    sampling.add_argument("--negative-prompt", help="what to avoid; needs --text-guidance above 1")
    sampling.add_argument(
        "--preview",
        type=Path,
        metavar="PNG",
        help="a picture of the video in the making, renewed as it goes on",
    )

    words = parser.add_argument_group("from words alone, with --prompt and no image")
    words.add_argument(
        "--prior",
        metavar="PATH_OR_NAME",
        help="a Stable Diffusion pipeline of diffusers, in a folder or on the hub; --steps are its own then"
        " (default: 500)",
    )
    words.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the distillation, such as noise.first=0.9",
    )
    add_model_options(parser)
    return parser


def add_sampling_options(sampling: argparse._ArgumentGroup) -> None:
    """What `eval.generate_run.sampling_of` reads, but for --one-by-one."""
    from data.command_options import positive

    sampling.add_argument("--steps", type=positive, help="denoising steps, a divisor of 1000")
    sampling.add_argument("--scheduler", choices=("ddim", "dpm"))
    for name in ("image", "camera", "text"):
        sampling.add_argument(
            f"--{name}-guidance",
            type=float,
            metavar="SCALE",
            help="1: as learnt; more exaggerates" if name == "image" else None,
        )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What `eval.generate_run.open_pipeline` reads, and --one-by-one."""
    models = parser.add_argument_group("models")
    models.add_argument(
        "--pipeline", type=Path, help="folder with pipeline.json (default: the bundled tiny one)"
    )
    for name, what in PART_OPTIONS.items():
        models.add_argument(
            f"--{name.replace('_', '-')}",
            type=Path,
            metavar="FOLDER",
            help=f"another {what}",
        )
    models.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    models.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the video model (default: float32; bfloat16 on a GPU)",
    )
    models.add_argument(
        "--offload",
        choices=("model", "sequential"),
        help="for small GPUs: keep weights in the computer's memory; sequential needs least and is slow",
    )
    models.add_argument(
        "--one-by-one", action="store_true", help="guidance with less memory: predictions in turn"
    )


if __name__ == "__main__":
    run_command(main)
