"""The ablation of the video model: trains all variants with all seeds, scores them, prints one table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, run_command

if TYPE_CHECKING:
    from eval.scores.ablation import Ablation

DESCRIPTION = """\
Trains the video model without cameras, with the LoRA branch, with the ControlNet branch and with both, at equal
steps from one base with several seeds, and scores camera agreement and image similarity on held-out scenes.

  ./launch.sh python -m eval.ablate configs/tiny/ablation_video.yaml
  ./launch.sh python -m eval.ablate configs/tiny/ablation_video.yaml steps=200 name=quick seeds=[0]
  ./launch.sh python -m eval.ablate configs/tiny/ablation_video.yaml --commands

Runs go to runs/NAME/VARIANT/seed_N, the table to runs/NAME/table.md and summary.json. Give the same command again
to go on: finished runs and scores stay. --commands prints what trains each unfinished run, for a cluster; given
again afterwards, the command scores them.

exit codes: 0 done; 2 something to fix, told in one message; 75 stopped early, start again.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.ablate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file: configs/tiny/ablation_video.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument(
        "--commands", action="store_true", help="print what trains the unfinished runs, and stop"
    )
    args = parser.parse_args(argv)

    from configs.loader import load_config
    from eval.scores.ablation import Ablation, AblationConfig

    ablation = Ablation(load_config(args.recipe, args.overrides, AblationConfig))
    if args.commands:
        for run in ablation.runs:
            if not run.is_finished():
                print(ablation.command(run))
        return EXIT_DONE
    return run_ablation(ablation)


def run_ablation(ablation: Ablation) -> int:
    """Trains and scores what is missing; the table is renewed after each run. Returns the exit code."""
    from rich.console import Console

    from train.run import run as train

    console = Console(stderr=True, highlight=False)
    scores: list[dict[str, Any]] = []
    for number, run in enumerate(ablation.runs, 1):
        console.print(f"run {number} of {len(ablation.runs)}: {run.label}", style="bold")
        if not run.is_finished() and (code := train(run.recipe)) != EXIT_DONE:
            return code
        with console.status("scoring"):
            scores.append(ablation.score(run))
        write_summary(ablation, scores)
    print_summary(ablation)
    return EXIT_DONE


def write_summary(ablation: Ablation, scores: list[dict[str, Any]]) -> None:
    """`summary.json` and `table.md` of the runs scored so far."""
    from data.durable_files import write_durably
    from eval.images.metrics import lpips_hint
    from eval.scores.ablation_report import ablation_markdown, summarise_ablation
    from train.run_folder import describe_environment

    missing = len(ablation.runs) - len(scores)
    notes = [f"{missing} of {len(ablation.runs)} runs are still missing."] if missing else []
    if any(score["measures"]["lpips"] is None for score in scores):
        notes.append(lpips_hint() + ".")
    summary = {
        "name": ablation.config.name,
        "steps": ablation.config.steps,
        "scenes": scores[0]["scenes"],
        **summarise_ablation(scores),
        "notes": notes,
        "runs": scores,
        "config": ablation.config.model_dump(mode="json"),
        "environment": describe_environment(),
    }
    write_durably(ablation.folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    write_durably(ablation.folder / "table.md", ablation_markdown(summary).encode())


def print_summary(ablation: Ablation) -> None:
    """The table on the terminal, and where its files are."""
    from rich.console import Console
    from rich.table import Table

    from eval.scores.ablation_report import ablation_table, order_sentences

    summary = json.loads((ablation.folder / "summary.json").read_text(encoding="utf-8"))
    header, rows = ablation_table(summary)
    table = Table(header[0])
    for heading in header[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    for sentence in [*order_sentences(summary), *summary["notes"]]:
        console.print(sentence, markup=False)
    print(f"table: {ablation.folder / 'table.md'}\nnumbers: {ablation.folder / 'summary.json'}")


if __name__ == "__main__":
    run_command(main)
