"""The `demo` command: one held-out scene with the bundled models, from frames to a page to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import EXIT_DONE, run_command

DESCRIPTION = """\
Reconstructs one scene with the bundled tiny models: 17 frames with cameras go in, 3D Gaussians come out. The
scene is procedural and was never trained on. No download, no GPU. Opens nothing; says where the report is.

  ./launch.sh demo
  ./launch.sh demo --seed 910000003        # another scene
"""

SEED = 910_000_008
"""A scene whose scores are close to the means over the 64 held-out ones: neither the best nor the worst.

Far from the seeds of training (from 0), validation (from 800,000,000) and scoring (from 900,000,000).
"""


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
        "--autoencoder", type=Path, help="weights folder (default: the bundled one)"
    )
    parser.add_argument("--lalrm", type=Path, help="weights folder (default: the bundled one)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error("--seed must be at least 0")

    from rich.console import Console

    from data.procedural.clips import make_clip
    from data.procedural.config import SceneConfig
    from eval.pages.scene_outputs import replaced_folder
    from eval.reconstruction import load_models
    from eval.scene_command import reconstruct_and_write
    from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM

    models = load_models(args.autoencoder or TINY_AUTOENCODER, args.lalrm or TINY_LALRM)
    config = SceneConfig()
    with replaced_folder(args.out) as folder:
        with Console(stderr=True).status("making the scene's pictures"):
            clip = make_clip(args.seed, config)
        reconstruct_and_write(
            folder,
            clip,
            models,
            title="Stillscape demo",
            settings={"seed": args.seed, "scene": config.model_dump(mode="json")},
            num_near=config.num_near,
        )
    print(f"report: {args.out / 'report.html'}")
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)
