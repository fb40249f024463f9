"""The `score` command: a model over held-out clips, beside its baselines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, EXIT_USER, run_command

if TYPE_CHECKING:
    from eval.score_run import ScoreRun

DESCRIPTION = """\
Runs an autoencoder and LaLRM over a fixed set of clips and scores the predicted scenes on views that were
given, on new views near by, and on new views far off, beside the baselines.

  ./launch.sh score configs/eval/tiny_reconstruction.yaml
  ./launch.sh score configs/eval/tiny_reconstruction.yaml num_clips=8 out=runs/score/quick
  ./launch.sh score configs/eval/tiny_reconstruction.yaml lalrm=runs/mine/weights out=runs/score/mine

Writes to the recipe's `out`: clips.jsonl (one line a clip), summary.json, pictures/ and report.html. An
interrupted run goes on where it stopped when the same command is given again.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="launch.sh score",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file, such as configs/eval/*.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    args = parser.parse_args(argv)

    from configs.loader import load_config
    from eval.score_report import print_scores, write_score_report
    from eval.score_run import ScoreConfig, ScoreRun

    run = ScoreRun(load_config(args.recipe, args.overrides, ScoreConfig))
    run_with_progress(run)
    summary = run.write_summary()
    lines = run.lines()
    pictures = {line["clip"]: run.picture(line["clip"]) for line in lines}
    report = run.folder / "report.html"
    write_score_report(report, summary, lines, pictures)
    print_scores(summary)
    for source, why in summary["failed"].items():
        print(f"not scored: {source}: {why}")
    print(f"report: {report}\nnumbers: {run.folder / 'summary.json'}")
    return EXIT_USER if summary["failed"] else EXIT_DONE


def run_with_progress(run: ScoreRun) -> None:
    """Scores what is missing under a bar that shows the last clip's PSNR."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from eval.scoring import new_view_psnr

    console = Console(stderr=True)
    if run.num_done:
        console.print(f"going on after {run.num_done} clips that {run.folder} has already")
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=run.num_clips, completed=run.num_done)

        def on_clip(line: dict[str, Any]) -> None:
            told = "failed" if "error" in line else f"{new_view_psnr(line):.1f} dB on new views"
            progress.update(task, advance=1, description=f"{line['source']}: {told}")

        run.run(on_clip)


if __name__ == "__main__":
    run_command(main)
