"""The command `prepare text`: embeddings of the clips' captions beside shards' clips."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from configs.errors import EXIT_DONE, run_command
from data.command_options import add_existing_options, existing_choice, positive
from data.work_share import add_share_options, own_share

DESCRIPTION = """\
Computes the text embeddings of shards' captions once, so that no text encoder sits in the training process.
They go into the shards' own folder; task.text names their set. A clip without a caption gets the empty
prompt's embedding, which is stored once. With --nproc N, under srun or in a SLURM job array each process
makes its share, on its own GPU.

  ./launch.sh prepare text shards/re10k --encoder weights/CogVideoX-5b-I2V --device cuda
  ./launch.sh prepare text shards/re10k --encoder weights/CogVideoX-5b-I2V --empty --name no_captions
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    args = build_parser().parse_args(argv)
    import torch

    from data.progress_bars import progress_bar
    from data.shard_index import ShardIndex, index_file
    from data.shard_report import report_share
    from data.shard_writing import num_own_clips
    from models.share_device import share_device
    from models.video.text_encoder import TextEncoder, load_text_encoder
    from models.video.text_shards import write_text

    share = own_share(args)
    device = share_device(args.device, share)
    index = ShardIndex.load(args.folder)
    dtype = args.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    tokenizer, network = load_text_encoder(args.encoder, getattr(torch, dtype))
    encoder = TextEncoder(tokenizer, network.to(device))
    started = time.monotonic()
    with progress_bar("clips", num_own_clips(index, share), shown=share.is_first) as advance:
        account = write_text(
            index,
            encoder,
            args.encoder,
            num_tokens=args.tokens,
            name=args.name,
            use_captions=not args.empty,
            batch_size=args.batch,
            existing=existing_choice(args),
            share=share,
            progress=advance,
        )
    seconds = time.monotonic() - started
    done = account.captions + account.empty
    if not (args.folder / index_file(args.name)).is_file():
        report_share(args.folder, share, f"embeddings of {done} clips in {seconds:.0f} s")
        return EXIT_DONE
    size = sum(shard.bytes for shard in index.tensors(args.name).content.shards)
    print(
        f"{args.folder}: text embeddings {args.name!r} of {len(index)} clips ({done} of them new:"
        f" {account.captions} captions, {account.empty} without one), {args.tokens} tokens of width"
        f" {encoder.width}, {size / 1e6:.1f} MB, in {seconds:.0f} s"
    )
    if account.cut:
        print(f"captions cut off after {args.tokens} tokens: {account.cut}")
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.sh prepare text",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="SHARDS", help="shard folder")
    parser.add_argument(
        "--encoder",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="with tokenizer/ and text_encoder/ in it, such as a CogVideoX-5B-I2V snapshot",
    )
    parser.add_argument(
        "--empty", action="store_true", help="the empty prompt for every clip, whatever its caption"
    )
    parser.add_argument(
        "--tokens",
        type=positive,
        default=226,
        help="length of an embedding, the video model's max_text_seq_length (default: %(default)s)",
    )
    parser.add_argument("--name", default="text", help="of the set (default: %(default)s)")
    parser.add_argument(
        "--batch", type=positive, default=8, help="captions at once (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the encoder (default: float32 on the CPU, else bfloat16)",
    )
    add_existing_options(parser)
    add_share_options(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
