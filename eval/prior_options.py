"""Options of commands that ask a prior, whose names `eval.named_prior` reads. Imports nothing heavy."""

from __future__ import annotations

import argparse


def add_prior_choice(options: argparse._ArgumentGroup, *, default: str, guidance: str) -> None:
    """Adds --prior, --prompt and --guidance; `guidance` says what that is where it is not given."""
    options.add_argument(
        "--prior", default=default, metavar="video|PATH_OR_NAME|none", help="default: %(default)s"
    )
    options.add_argument("--prompt", help="what a text-conditioned prior is told")
    options.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help=f"of image and cameras (default: {guidance}), of the text (default: 100)",
    )
