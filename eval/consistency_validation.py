"""The command that shows whether the 3D consistency score is right."""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import EXIT_DONE, EXIT_USER, run_command

DESCRIPTION = """\
Changes clips in known amounts and scores their 3D consistency: procedural scenes and real captures, shifted, warped,
with objects swapped, flickering, with an input view that disagrees; and rescaled, recoloured or mirrored as a whole,
which is to change nothing. Then the default fit against one ten times as long.

  ./launch.sh python -m eval.consistency_validation configs/eval/consistency_validation.yaml
  ./launch.sh python -m eval.consistency_validation configs/eval/consistency_validation.yaml \\
      num_scenes=1 captures=[] ranking=null report=null out=runs/validation/quick

Writes to the recipe's `out`: clips.jsonl (one line a case), summary.json and report.md; the page and its numbers go
to `report` too. An interrupted run goes on where it stopped when the same command is given again. Exit code 2 where
a case could not be scored.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="launch.sh python -m eval.consistency_validation",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file, such as configs/eval/*.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    args = parser.parse_args(argv)

    from configs.loader import load_config
    from eval.consistency.trial import ConsistencyTrial, ConsistencyTrialConfig
    from eval.score import run_with_progress
    from eval.scores.score_run import ScoreRun

    trial = ConsistencyTrial(load_config(args.recipe, args.overrides, ConsistencyTrialConfig))
    for name in trial.left_out:
        print(f"{name} is not here and is left out")
    run = ScoreRun(trial)
    run_with_progress(run)
    summary = run.write_summary()
    run.write_report(summary)
    trial.print_scores(summary)
    for source, why in summary["failed"].items():
        print(f"not scored: {source}: {why}")
    print(f"report: {trial.config.report or run.folder / 'report.md'}")
    return EXIT_USER if summary["failed"] else EXIT_DONE


if __name__ == "__main__":
    run_command(main)
