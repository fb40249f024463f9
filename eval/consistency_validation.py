"""The command that shows whether the 3D consistency score is right."""

from __future__ import annotations

from configs.errors import run_command
from eval.trials.command import parse_trial

DESCRIPTION = """\
Changes clips in known amounts and scores their 3D consistency: procedural scenes and real captures, shifted, warped,
with objects swapped, flickering, with an input view that disagrees; and rescaled, recoloured or mirrored as a whole,
which is to change nothing. Then the default fit against one ten times as long.

  ./launch.sh python -m eval.consistency_validation configs/eval/consistency_validation.yaml
  ./launch.sh python -m eval.consistency_validation configs/eval/consistency_validation.yaml \\
      num_scenes=1 captures=[] ranking=null report=null out=runs/validation/quick

Writes to the recipe's `out`: clips.jsonl (one line a case), summary.json and report.md; the page and its numbers go
to `report` too. An interrupted run goes on where it stopped when the same command is given again. N processes share
it after `./launch.sh python -m train.torchrun --nproc-per-node=N` instead of `./launch.sh python`. Exit code 2 where
a case could not be scored.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    recipe, overrides = parse_trial("eval.consistency_validation", DESCRIPTION, argv)

    from configs.loader import load_config
    from eval.consistency.trial import ConsistencyTrial, ConsistencyTrialConfig
    from eval.trials.trial import run_trial

    return run_trial(ConsistencyTrial(load_config(recipe, overrides, ConsistencyTrialConfig)))


if __name__ == "__main__":
    run_command(main)
