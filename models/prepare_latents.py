"""The command `prepare latents`: latents of a video autoencoder beside shards' clips."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from configs.errors import EXIT_DONE, run_command
from models.bundled_weights import TINY_AUTOENCODER

DESCRIPTION = """\
Computes the latents of shards' clips once, so that training the video model reads them instead of frames.
They go into the shards' own folder. A run that uses them needs the same autoencoder and number of frames.

  ./launch.sh prepare latents runs/data/tiny_train
  ./launch.sh prepare latents shards/re10k --autoencoder weights/CogVideoX-5b-I2V/vae --frames 49 \\
      --strides 3 4 5 --hop 48 --forwards-only --device cuda
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    args = build_parser().parse_args(argv)
    import torch

    from data.clip_windows import WindowConfig
    from data.progress_bars import progress_bar
    from data.shard_index import ShardIndex
    from models.autoencoders.files import load_autoencoder
    from models.autoencoders.latent_shards import LATENTS, write_latents

    index = ShardIndex.load(args.folder)
    windows = WindowConfig(
        num_frames=args.frames,
        strides=tuple(args.strides),
        backwards=not args.forwards_only,
        mirrored=not args.unmirrored,
    )
    autoencoder = load_autoencoder(args.autoencoder)
    if isinstance(autoencoder, torch.nn.Module):
        autoencoder.to(args.device)
    started = time.monotonic()
    with progress_bar("clips", len(index)) as advance:
        done = write_latents(
            index,
            autoencoder,
            args.autoencoder,
            windows,
            hop=args.hop,
            device=torch.device(args.device),
            existing="resume" if args.resume else "overwrite" if args.overwrite else "refuse",
            progress=advance,
        )
    seconds = time.monotonic() - started
    size = sum(shard.bytes for shard in index.tensors(LATENTS).content.shards)
    print(
        f"{args.folder}: latents of {len(index)} clips ({done} of them new), {size / 1e6:.1f} MB,"
        f" in {seconds:.0f} s"
    )
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.sh prepare latents",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="shard folder")
    parser.add_argument(
        "--autoencoder",
        type=Path,
        default=TINY_AUTOENCODER,
        help="weights folder of the video autoencoder (default: the bundled one)",
    )
    parser.add_argument("--frames", type=int, default=17, help="frames of a window: 8k+1")
    parser.add_argument(
        "--strides", type=int, nargs="+", default=[1], help="path frames from one to the next"
    )
    parser.add_argument(
        "--hop", type=int, default=8, help="path frames from one window's start to the next's"
    )
    parser.add_argument("--forwards-only", action="store_true", help="no windows run backwards")
    parser.add_argument(
        "--unmirrored", action="store_true", help="no windows flipped left to right"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on after the finished shards")
    existing.add_argument("--overwrite", action="store_true", help="replace latents that are there")
    return parser


if __name__ == "__main__":
    run_command(main)
