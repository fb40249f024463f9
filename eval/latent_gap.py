"""The gap between generated latents and re-encoded ones, as LaLRM sees it.

A generated clip's frames are decoded from latents that the video model drew. Encoded again they give other
latents: those that LaLRM was trained on. The gap is LaLRM's score from the former less its score from the
latter, both against the same frames. LaLRM's second stage, on generated clips, is to close it. It can be no
larger than what encoding makes of decoded frames: next to nothing with a linear codec.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from configs.errors import EXIT_DONE, UserError, run_command

DESCRIPTION = """\
Measures what LaLRM loses on latents that the video model drew, against the same clips' frames encoded again.
Several LaLRMs, such as one before and one after its second stage, go into one table.

  ./launch.sh prepare generated --clips 64 --seed 820000000 --out runs/data/tiny_generated_validation
  ./launch.sh python -m eval.latent_gap runs/data/tiny_generated_validation \\
      --lalrm models/weights/tiny/lalrm runs/tiny_reconstruction_stage2/weights

Writes gap.json and gap.md to --out and prints the table. Scores are of LaLRM's renders at the clip's cameras
against its decoded frames; the gap is generated less re-encoded, so for PSNR and SSIM below 0 is a loss.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    args = build_parser().parse_args(argv)
    import torch

    from data.durable_files import write_durably
    from data.progress_bars import progress_bar
    from data.shard_index import ShardIndex
    from eval.scores.gap_measures import check_generated, gap_markdown, measure_clip, summarise_gap
    from models.autoencoders.files import load_autoencoder
    from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM
    from models.device_choice import device_of
    from models.lalrm import LaLRM
    from models.pretrained import weights_digest
    from train.run_folder import describe_environment

    device = device_of(args.device)
    folders, weights = args.lalrm or [TINY_LALRM], args.autoencoder or TINY_AUTOENCODER
    if len(set(folders)) < len(folders):
        raise UserError("--lalrm names a folder twice")
    index = ShardIndex.load(args.shards)
    check_generated(index, weights)
    autoencoder = load_autoencoder(weights)
    if isinstance(autoencoder, torch.nn.Module):
        autoencoder.to(device)
    models = {str(path): LaLRM.from_pretrained(path).to(device) for path in folders}
    lines = []
    num_clips = min(args.clips or len(index), len(index))
    with progress_bar("clips", num_clips) as advance:
        for number in range(num_clips):
            lines.append(measure_clip(index, number, autoencoder, models, device))
            advance(1)
    summary = {
        **summarise_gap(lines),
        "shards": {"folder": str(args.shards), "content": index.fingerprint},
        "weights": {str(path): weights_digest(path) for path in (weights, *folders)},
        "clips": lines,
        "environment": describe_environment(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_durably(args.out / "gap.json", (json.dumps(summary, indent=1) + "\n").encode())
    write_durably(args.out / "gap.md", gap_markdown(summary).encode())
    print(gap_markdown(summary))
    print(f"numbers: {args.out / 'gap.json'}")
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    from data.command_options import positive

    parser = argparse.ArgumentParser(
        prog="python -m eval.latent_gap",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="made by `prepare generated`")
    parser.add_argument(
        "--lalrm",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="weights folders (default: the bundled tiny one)",
    )
    parser.add_argument(
        "--autoencoder",
        type=Path,
        metavar="FOLDER",
        help="weights folder (default: the bundled tiny one)",
    )
    parser.add_argument("--clips", type=positive, help="only so many, from the first")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/latent_gap"), metavar="FOLDER")
    return parser


if __name__ == "__main__":
    run_command(main)
