"""Speed, beside a peer or a limit that is measured in the same run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import EXIT_DONE, run_command

DESCRIPTION = """\
Measures and prints tables, then JSON on the last line (or to --json FILE). On the CPU:

  rasteriser   milliseconds, against the float64 reference and this machine's fp32 matmul peak
  train        for each recipe a training step in parts and its share of the matmul peak; what the real loop
               spends waiting for data and saving checkpoints; samples a second of two processes over those of
               one, beside two that train apart (--rounds; each takes minutes), and beside what a second process
               brings to other work
  loader       samples a second, against what a training step consumes

On a GPU, if asked for by name:

  planned      memory and seconds of a step of the full-size models, beside what `plan` says of them; without
               weights or shards (--clips, --layers)

Recipes train on procedural clips made for the measurement. On a machine that is busy with other things only
ratios mean anything, and weak scaling not even that.

  ./launch.sh python -m eval.benchmark                   # all that run on the CPU
  ./launch.sh python -m eval.benchmark rasteriser --threads 1 2
  ./launch.sh python -m eval.benchmark train --recipe configs/tiny/video_base.yaml --rounds 0
  ./launch.sh python -m eval.benchmark planned --layers 12
"""
ON_CPU = ("rasteriser", "train", "loader")
PLANNED = "planned"
NAMES = (*ON_CPU, PLANNED)
RECIPES = tuple(
    Path(f"configs/tiny/{name}.yaml") for name in ("autoencoder", "video_camera", "reconstruction")
)
FULL_RECIPES = tuple(
    Path(f"configs/full/{name}.yaml")
    for name in ("reconstruction_stage1", "reconstruction_stage2", "video_camera")
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmark",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="default: 1")
    parser.add_argument(
        "--recipe",
        type=Path,
        nargs="+",
        metavar="RECIPE",
        help=f"default for train and loader: {' '.join(map(str, RECIPES))}; for planned:"
        f" {' '.join(map(str, FULL_RECIPES))}",
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="of weak scaling, 0: leave it out; default: 2"
    )
    parser.add_argument("--clips", type=int, default=1, help="of a planned step; default: 1")
    parser.add_argument(
        "--layers", type=int, help="of the video base of a planned step; default: the recipe's"
    )
    parser.add_argument("--device", default="cuda", help="of planned steps; default: cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in NAMES]:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name, given in (
        ("threads", min(args.threads)),
        ("clips", args.clips),
        ("layers", args.layers),
    ):
        if given is not None and given < 1:
            parser.error(f"--{name} must be at least 1")
    if args.rounds < 0:
        parser.error("--rounds must be at least 0")

    import json

    from data.durable_files import write_durably
    from train.run_folder import describe_environment

    results = []
    for name in args.names or ON_CPU:
        for result in _run(name, args):
            print_result(result)
            results.append(result)
    numbers = json.dumps({"results": results, "environment": describe_environment()})
    if args.json:
        write_durably(args.json, numbers.encode())
        print(f"numbers: {args.json}")
    else:
        print(numbers)
    return EXIT_DONE


FILE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def print_result(result: dict[str, Any]) -> None:
    """A table of the rows, and a line for every number beside them or equal in all of them."""
    from rich.console import Console
    from rich.table import Table

    rows = result["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    same = {
        column: rows[0][column]
        for column in columns
        if len(rows) > 1 and all(row.get(column, ...) == rows[0].get(column) for row in rows)
    }
    table = Table(title=result["benchmark"])
    for column in columns:
        if column not in same:
            cells = [_cell(row.get(column)) for row in rows]
            is_name = isinstance(rows[0].get(column), str)
            table.add_column(
                column.replace("_", " "),
                justify="left" if is_name else "right",
                no_wrap=is_name,
                min_width=12 if is_name else max(map(len, cells)),
            )
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns if column not in same))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    console.print(table)
    beside = {key: value for key, value in result.items() if key not in ("rows", "benchmark")}
    for name, value in {**same, **beside}.items():
        console.print(f"  {name.replace('_', ' ')}: {value}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}"


def _run(name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a benchmark measures, each part as soon as it is known."""
    from rich.console import Console

    with Console(stderr=True).status(f"measuring: {name}"):
        if name == "rasteriser":
            from eval.benchmarks.rasteriser import benchmark_rasteriser

            yield benchmark_rasteriser(tuple(args.threads))
        elif name == PLANNED:
            from eval.benchmarks.planned_step import benchmark_planned
            from models.device_choice import device_of

            recipes = args.recipe or FULL_RECIPES
            yield benchmark_planned(recipes, device_of(args.device), args.clips, args.layers)
        elif name == "train":
            from eval.benchmarks.training import benchmark_train

            yield from benchmark_train(args.recipe or RECIPES, args.threads[0], args.rounds)
        else:
            from eval.benchmarks.loading import benchmark_loader

            for recipe in args.recipe or RECIPES:
                yield benchmark_loader(recipe, args.threads[0])


if __name__ == "__main__":
    run_command(main)
