"""Options of commands that ask a prior, whose names `eval.named_prior` reads. Imports nothing heavy."""

from __future__ import annotations

import argparse


def add_prior_choice(options: argparse._ArgumentGroup, *, default: str) -> None:
    """Adds --prior, --prompt and --guidance."""
    options.add_argument(
        "--prior", default=default, metavar="video|PATH_OR_NAME|none", help="default: %(default)s"
    )
    options.add_argument("--prompt", help="what a text-conditioned prior is told")
    options.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="of image and cameras (default: the video pipeline's own; 5 for a Zero-1-to-3), of the text"
        " (default: 100)",
    )
