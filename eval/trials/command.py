"""The command line of a trial."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parse_trial(
    module: str, description: str, argv: Sequence[str] | None
) -> tuple[Path, list[str]]:
    """The recipe and the changes to it. module: the command's own, for its usage line."""
    parser = argparse.ArgumentParser(
        prog=f"launch.sh python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file, such as configs/eval/*.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    args = parser.parse_args(argv)
    return args.recipe, args.overrides
