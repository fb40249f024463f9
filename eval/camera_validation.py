"""The command that shows whether the camera errors are right."""

from __future__ import annotations

from configs.errors import run_command
from eval.trials.command import parse_trial

DESCRIPTION = """\
Commanded cameras are made wrong by known amounts, and the camera errors have to find those again: on real captures
and procedural frames by structure from motion, on small procedural frames by alignment of pixels, too. TSED has to
fall, other conventions have to be named, and right cameras to be left alone.

  ./launch.sh python -m eval.camera_validation configs/eval/camera_validation.yaml
  ./launch.sh python -m eval.camera_validation configs/eval/camera_validation.yaml \\
      num_scenes=1 num_large=0 captures=[] report=null out=runs/validation/quick

Writes to the recipe's `out`: clips.jsonl (one line a case), summary.json and report.md; the page and its numbers go
to `report` too. An interrupted run goes on where it stopped when the same command is given again. N processes share
it after `./launch.sh python -m train.torchrun --nproc-per-node=N` instead of `./launch.sh python`. Exit code 2 where
a clip could not be read.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    recipe, overrides = parse_trial("eval.camera_validation", DESCRIPTION, argv)

    from configs.loader import load_config
    from eval.cameras.trial import CameraTrial, CameraTrialConfig
    from eval.trials.trial import run_trial

    return run_trial(CameraTrial(load_config(recipe, overrides, CameraTrialConfig)))


if __name__ == "__main__":
    run_command(main)
