"""The `refine` command: a scene is polished on its own, by a diffusion prior and the pictures that it came from."""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import EXIT_DONE, run_command

DESCRIPTION = """\
Refines one scene of 3D Gaussians by a diffusion prior, tied to the image that it was made from. SCENE is a folder that
`generate` or `refine` wrote, or a PLY or SPZ file with --cameras.

  ./launch.sh refine runs/my_scene --image photo.jpg
  ./launch.sh refine runs/my_scene --image photo.jpg --redraw
  ./launch.sh refine runs/my_scene --image photo.jpg --frames runs/my_scene/video.mp4
  ./launch.sh refine runs/my_scene --image photo.jpg --frames runs/my_scene/clip --prior none
  ./launch.sh refine runs/my_scene --image photo.jpg --prior PATH_OR_NAME --prompt "a hallway"
  ./launch.sh refine ... --set noise.first=0.5 --set deformation=null

Priors:
  video         (default) the pipeline's camera-conditioned video model
  PATH_OR_NAME  a pipeline of diffusers: Stable Diffusion, a folder or a name on the hub, told by --prompt; or the
                folder of a Zero-1-to-3, told by the image and the camera
  none          the image and --frames alone

By default the scene is distilled from the prior (score distillation). With --redraw the prior draws pictures of the
scene anew, through a little noise, and the scene is fitted to them, in rounds of 200 steps.

Part of the pictures is held out, and all of the video that `generate` wrote beside the scene, unless --frames shows it.
The refined scene is kept where it shows what was held out better than the scene that came in, else the latter is.
Stopped with Ctrl-C, the same command goes on from where it was.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    args = build_parser().parse_args(argv)
    if args.out is None:
        name = args.scene.absolute()
        args.out = Path("runs/refine") / (name.name if name.is_dir() else name.stem)

    from eval.refine_run import refine_scene

    refine_scene(args)
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line of `refine`."""
    from data.command_options import natural, positive
    from eval.generate import add_model_options
    from eval.prior_options import add_prior_choice

    parser = argparse.ArgumentParser(
        prog="launch.sh refine",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scene", type=Path, metavar="SCENE")
    parser.add_argument(
        "--image",
        type=Path,
        required=True,
        help="what the scene was made from, at its first camera",
    )
    parser.add_argument("--out", type=Path, help="default: runs/refine/NAME")
    parser.add_argument(
        "--steps",
        type=positive,
        help="default: 60 to distil the video prior, which is asked about a whole path at once; 500 to distil another;"
        " 200 to fit pictures, with --redraw or without a prior",
    )
    parser.add_argument("--seed", type=natural, default=0, help="default: %(default)s")

    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--frames",
        type=Path,
        metavar="CLIP",
        help="the scene's video, a frame for each of its cameras: a video file, images, or transforms.json",
    )
    pictures.add_argument(
        "--cameras", type=Path, metavar="FILE", help="default: camera_path.json beside the scene"
    )
    pictures.add_argument(
        "--keep",
        choices=("better", "refined"),
        default="better",
        help="which scene is written, by what was held out (default: %(default)s)",
    )

    prior = parser.add_argument_group("prior")
    add_prior_choice(prior, default="video")
    prior.add_argument(
        "--redraw",
        action="store_true",
        help="fit the scene to pictures of it that the prior draws anew, in rounds of 200 steps; without it, distil",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the refinement, such as noise.first=0.5 or rates.means=1e-3",
    )
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
