"""The command `prepare latents`: latents of a video autoencoder beside shards' clips."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from configs.errors import EXIT_DONE, run_command
from data.command_options import add_existing_options, existing_choice, positive
from data.work_share import add_share_options, own_share
from models.bundled_weights import TINY_AUTOENCODER

DESCRIPTION = """\
Computes the latents of shards' clips once, so that training the video model reads them instead of frames.
They go into the shards' own folder. A run that uses them needs the same autoencoder and number of frames.
With --nproc N, under srun or in a SLURM job array each process makes its share, on its own GPU.

  ./launch.sh prepare latents runs/data/tiny_train
  ./launch.sh prepare latents shards/re10k --autoencoder weights/CogVideoX-5b-I2V/vae --frames 49 \\
      --forwards-only --device cuda --nproc 8
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    args = build_parser().parse_args(argv)
    import torch

    from data.clip_windows import WindowConfig
    from data.progress_bars import progress_bar
    from data.shard_index import ShardIndex, index_file
    from data.shard_report import report_share
    from data.shard_writing import num_own_clips
    from data.views import check_frame_count
    from models.autoencoders.files import load_autoencoder
    from models.autoencoders.latent_shards import LATENTS, write_latents
    from models.share_device import share_device

    share = own_share(args)
    device = share_device(args.device, share)
    index = ShardIndex.load(args.folder)
    windows = WindowConfig(
        num_frames=check_frame_count(args.frames, "--frames"),
        strides=tuple(args.strides),
        backwards=not args.forwards_only,
        mirrored=not args.unmirrored,
    )
    autoencoder = load_autoencoder(args.autoencoder)
    if isinstance(autoencoder, torch.nn.Module):
        autoencoder.to(device)
    started = time.monotonic()
    with progress_bar("clips", num_own_clips(index, share), shown=share.is_first) as advance:
        done = write_latents(
            index,
            autoencoder,
            args.autoencoder,
            windows,
            hop=args.hop,
            device=device,
            existing=existing_choice(args),
            share=share,
            progress=advance,
        )
    seconds = time.monotonic() - started
    if not (args.folder / index_file(LATENTS)).is_file():
        report_share(args.folder, share, f"latents of {done} clips in {seconds:.0f} s")
        return EXIT_DONE
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
    parser.add_argument("--frames", type=positive, default=17, help="frames of a window: 8k+1")
    parser.add_argument(
        "--strides", type=positive, nargs="+", default=[1], help="path frames from one to the next"
    )
    parser.add_argument(
        "--hop", type=positive, default=8, help="path frames from one window's start to the next's"
    )
    parser.add_argument("--forwards-only", action="store_true", help="no windows run backwards")
    parser.add_argument(
        "--unmirrored", action="store_true", help="no windows flipped left to right"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)"
    )
    add_existing_options(parser)
    add_share_options(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
