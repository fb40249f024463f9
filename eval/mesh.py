"""The `mesh` command: a scene of 3D Gaussians becomes a textured mesh."""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import EXIT_DONE, UserError, run_command

DESCRIPTION = """\
Turns a scene of 3D Gaussians into a triangle mesh with a texture: GLB, and OBJ with MTL and PNG. SCENE is a PLY or
SPZ file, or a folder that `generate` or `reconstruct` wrote.

  ./launch.sh mesh runs/demo
  ./launch.sh mesh runs/my_scene --faces 100000 --texture 2048
  ./launch.sh mesh object.ply --views around               an object, without cameras
  ./launch.sh mesh scene.ply --cameras camera_path.json    any path file of `generate`, in the scene's own axes
  ./launch.sh mesh scene.ply --bounds -1 -1 0.5 1 1 2      only what is in this box

The scene is looked at along its camera path and a little beside it: name the path with --cameras where there is no
camera_path.json beside the scene. An object may be looked at from all around instead. Methods:
  depth     (default) fuses the depth of those views into a signed distance. Open where nothing was seen.
  density   the surface where the Gaussians' density crosses --level: for solid objects, as from distillation.

With --prior, as for `refine`, a diffusion model then draws the texture anew: pictures of the mesh are made noisy, are
denoised by it, and the texture is fitted to what comes out. Name the image that the scene was made from with --image:
part of it is held out, as is the video that `generate` wrote beside the scene, and the texture is kept where it shows
that better.

  ./launch.sh mesh runs/my_scene --prior video --image photo.jpg
  ./launch.sh mesh runs/my_scene --prior PATH_OR_NAME --prompt "a hallway" --noise 0.4 0.1

Stopped with Ctrl-C, the same command goes on after the last stage that was done; OUT/preview.png shows what is there.

Files have glTF's axes: y up, z toward the viewer. The mesh is unlit: its colours already hold the scene's light.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    args = build_parser().parse_args(argv)
    if args.out is None:
        name = args.scene.absolute()
        args.out = Path("runs/mesh") / (name.name if name.is_dir() else name.stem)

    if args.level is not None and args.method != "density":
        raise UserError("--level is of the density, and has no effect without --method density")

    from eval.mesh_run import make_mesh

    make_mesh(args)
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line of `mesh`."""
    from data.command_options import image_size, natural, positive
    from eval.generate import add_model_options

    parser = argparse.ArgumentParser(
        prog="launch.sh mesh",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scene", type=Path, metavar="SCENE")
    parser.add_argument("--out", type=Path, help="default: runs/mesh/NAME")
    parser.add_argument("--faces", type=positive, help="at most, about (default: 30000)")
    parser.add_argument("--texture", type=positive, help="texels a side (default: 1024)")
    parser.add_argument("--method", choices=("depth", "density"), help="default: depth")

    views = parser.add_argument_group("views")
    views.add_argument(
        "--cameras", type=Path, metavar="FILE", help="default: camera_path.json beside the scene"
    )
    views.add_argument(
        "--views",
        choices=("path", "around", "both"),
        default="path",
        help="where from (default: %(default)s)",
    )
    views.add_argument(
        "--num-views", type=positive, default=36, help="in all (default: %(default)s)"
    )
    views.add_argument(
        "--size", type=image_size, metavar="HxW", help="of the views (default: twice the cameras')"
    )

    surface = parser.add_argument_group("surface")
    surface.add_argument(
        "--grid",
        type=positive,
        help="nodes along its longest side (default: the views' width, 128 to 384)",
    )
    surface.add_argument(
        "--bounds",
        type=float,
        nargs=6,
        metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        help="a box in the scene's axes (default: what the views show)",
    )
    surface.add_argument(
        "--level", type=float, help="of the density (default: 1, or 0.1 along a path)"
    )
    surface.add_argument("--smoothing", type=natural, help="rounds (default: 10)")
    surface.add_argument(
        "--steps", type=natural, help="that refine the texture; 0 leaves it baked (default: 10)"
    )
    add_prior_options(parser.add_argument_group("texture drawn anew by a prior"))
    add_model_options(parser)
    return parser


def add_prior_options(prior: argparse._ArgumentGroup) -> None:
    """What `eval.mesh_texture` reads."""
    from data.command_options import natural, positive
    from eval.prior_options import add_prior_choice

    add_prior_choice(prior, default="none")
    prior.add_argument(
        "--image",
        type=Path,
        help="what the scene was made from, at its first camera: for priors that are shown it, and to judge by",
    )
    prior.add_argument(
        "--noise",
        type=float,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="how noisy pictures are made in the first and the last round, as shares of the prior's schedule"
        " (default: 0.2 0.05)",
    )
    prior.add_argument("--rounds", type=positive, help="default: 3")
    prior.add_argument(
        "--denoise-steps", type=positive, help="for each picture in a round (default: 10)"
    )
    prior.add_argument(
        "--keep",
        choices=("better", "refined"),
        help="which texture is written, by what was held out of the image (default: better)",
    )
    prior.add_argument("--seed", type=natural, default=0, help="default: %(default)s")


if __name__ == "__main__":
    run_command(main)
