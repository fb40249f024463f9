"""The `train` command: one recipe, one run folder."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING

from configs.errors import EXIT_DONE, run_command

if TYPE_CHECKING:
    from train.config import RunConfig

DESCRIPTION = """\
Trains a model by a recipe. Everything a run writes goes to runs/<name>/: the resolved config.yaml,
environment.json, metrics.jsonl, TensorBoard logs, sample pictures, checkpoints and, at the end, weights.
An existing run is continued with resume=auto. SIGTERM, SIGUSR1 and Ctrl-C stop it with a checkpoint. Where
nothing moves for loop.hang_minutes, or loop.long_hang_minutes in validation and export, the run ends (exit
code 1) and names the rank that hangs, and its step.

exit codes: 0 done; 2 something to fix, told in one message; 75 stopped early, start again with resume=auto.
"""
EXAMPLE = (
    "example: python -m train.run configs/tiny/reconstruction.yaml name=my_run loop.steps=2000"
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="train",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="YAML file, such as configs/tiny/reconstruction.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    arguments = parser.parse_args(argv)

    from configs.loader import load_config
    from train.tasks.registry import Recipe

    return run(load_config(arguments.recipe, arguments.overrides, Recipe))


def run(config: RunConfig) -> int:
    """Trains by a whole recipe, in this process's place among the ranks; returns the exit code."""
    from train.engine import StepRule, set_threads
    from train.engine_choice import create_engine
    from train.loop import Outcome, train_loop
    from train.memory_advice import out_of_memory_explained
    from train.ranks import joined_ranks
    from train.run_folder import RunFolder
    from train.stopping import EXIT_REQUEUE, StopRequest

    set_threads(config.engine.threads)
    with (
        StopRequest(config.loop.max_minutes) as stop,
        joined_ranks(config.engine.device, _longest_wait(config)) as ranks,
        out_of_memory_explained(config, ranks),
    ):
        if ranks.restarts:  # by torchrun, which repeats the command as it was
            config = config.model_copy(update={"resume": "auto"})
        folder = RunFolder(config)
        for change in ranks.on_first(folder.check):
            if ranks.is_first:
                print(f"changed since the last start: {change}")
        task = config.task.create(config.seed)
        rule = StepRule(config.loop.accumulate, config.loop.clip_norm)
        engine = create_engine(task.build(), config.optimizer, config.engine, rule, ranks)
        with folder.held_by(ranks):
            outcome = train_loop(task, config, engine, folder, stop)
        ranks.gather(
            None
        )  # a scheduler takes the first end for the end of all, and rank 0 exports alone
    if outcome is Outcome.DONE:
        return EXIT_DONE
    reason = "the time budget is used up"
    if outcome is Outcome.SIGNALLED:
        reason = f"{stop.caught.name if stop.caught else 'a signal to another rank'} came"
    if ranks.is_first:
        print(f"stopped with a checkpoint, since {reason}; continue with resume=auto")
    return EXIT_REQUEUE


def _longest_wait(config: RunConfig) -> timedelta | None:
    """For another rank in one collective call: so long that `train.hang_watch` speaks first."""
    minutes = config.loop.hang_minutes
    if minutes is None:
        return None
    return timedelta(minutes=2 * max(minutes, config.loop.long_hang_minutes) + 5)


if __name__ == "__main__":
    run_command(main)
