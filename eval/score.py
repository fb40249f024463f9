"""The `score` command: a model over held-out clips, beside its baselines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, EXIT_USER, run_command

if TYPE_CHECKING:
    from eval.scores.score_run import ScoreRun

DESCRIPTION = """\
Runs models over a fixed set of clips and scores what they make, beside the baselines. The recipe's `kind` says
what is scored:

  reconstruction  LaLRM's scenes of posed clips: on views that were given, new ones near by, and new ones far off
  video           the video model: whether its videos follow their cameras, and the scenes made of one image

  ./launch.sh score configs/eval/tiny_reconstruction.yaml
  ./launch.sh score configs/eval/tiny_reconstruction.yaml lalrm=runs/mine/weights out=runs/score/mine
  ./launch.sh score configs/eval/tiny_video.yaml
  ./launch.sh score configs/eval/tiny_video.yaml num_scenes=8 out=runs/score/quick
  ./launch.sh score configs/eval/tiny_video.yaml branches=null out=runs/score/bare_base

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

    from eval.scores.score_kinds import create_score
    from eval.scores.score_run import ScoreRun

    score = create_score(args.recipe, args.overrides)
    run = ScoreRun(score)
    run_with_progress(run)
    summary = run.write_summary()
    report = run.write_report(summary)
    score.print_scores(summary)
    for source, why in summary["failed"].items():
        print(f"not scored: {source}: {why}")
    print(f"report: {report}\nnumbers: {run.folder / 'summary.json'}")
    return EXIT_USER if summary["failed"] else EXIT_DONE


def run_with_progress(run: ScoreRun) -> None:
    """Scores what is missing under a bar that shows the last item's scores and what is being done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    score, console = run.score, Console(stderr=True)
    if run.num_done:
        console.print(f"going on after {run.num_done} {score.noun}s that {run.folder} has already")
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=score.num_items, completed=run.num_done)

        def on_item(lines: list[dict[str, Any]]) -> None:
            failed = "error" in lines[0]
            told = f"{lines[0]['source']}: failed" if failed else score.headline(lines)
            progress.update(task, advance=1, description=told)

        run.run(on_item, lambda words: progress.update(task, description=words))


if __name__ == "__main__":
    run_command(main)
