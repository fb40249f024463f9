"""The `demo` command: one image becomes a scene with the bundled models, and is compared with the truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import EXIT_DONE, run_command

DESCRIPTION = """\
One image becomes a 3D scene with the bundled tiny models: a video model draws 17 frames along a camera path, as
latents, and LaLRM turns these into Gaussians. The image is a procedural scene that was never trained on, so that the
result can be compared with the truth. No download, no GPU. Opens nothing; says where the report is.

  ./launch.sh demo
  ./launch.sh demo --seed 910000003        # another scene
  ./launch.sh generate photo.jpg           # a photograph of yours
"""

SEED = 910_000_000
"""Far from the seeds of training (from 0), validation (from 800,000,000) and scoring (from 900,000,000)."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="launch.sh demo",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=SEED, help="which scene (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    parser.add_argument(
        "--pipeline", type=Path, help="folder with pipeline.json (default: the bundled one)"
    )
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error("--seed must be at least 0")

    from eval.demo_run import run_demo

    run_demo(args.seed, args.out, args.pipeline)
    print(f"report: {args.out / 'report.html'}")
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)
