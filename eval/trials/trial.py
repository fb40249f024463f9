"""What trials have in common: a trial validates a score on clips whose truth is known, one case a line."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import Field

from configs.errors import EXIT_DONE, EXIT_USER
from eval.scores.score_ranks import scoring_ranks
from eval.scores.score_run import Score, ScoreConfig, ScoreRun
from eval.trials.captures import Captures


class TrialConfig(ScoreConfig):
    """What every trial's recipe says."""

    data: Path = Field(description="index of procedural scenes (.json)")
    num_scenes: int | None = Field(None, gt=0, description="only so many of them, from the first")
    captures: tuple[Path, ...] = Field(
        (),
        description="folders with transforms.json; those that are not there are left out by name",
    )
    report: Path | None = Field(None, description="Markdown file; its numbers go beside it as JSON")


class Trial(Score, Protocol):
    """A score's validation."""

    captures: Captures

    @property
    def config(self) -> TrialConfig: ...


def run_trial(trial: Trial) -> int:
    """Runs a trial, or what is left of it, writes its page and prints what holds; returns the exit code.

    Processes that torchrun started share the items.
    """
    from eval.score import run_with_progress

    with scoring_ranks() as ranks:
        run = ScoreRun(trial, ranks)
        if not ranks.is_first:
            run.run()
            return EXIT_DONE
        for name in trial.captures.left_out:
            print(f"{name} is not here and is left out")
        run_with_progress(run)
    summary = run.write_summary()
    run.write_report(summary)
    trial.print_scores(summary)
    for source, why in summary["failed"].items():
        print(f"not scored: {source}: {why}")
    print(f"report: {trial.config.report or run.folder / 'report.md'}")
    return EXIT_USER if summary["failed"] else EXIT_DONE
