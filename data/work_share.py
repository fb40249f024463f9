"""Which share of a job is this process's: told by torchrun, SLURM or the command line.

The processes of `prepare` never talk to each other; all that they share is the folder that they write to.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.errors import UserError

HELP = """\
which share of the work is this command's, which --nproc deals out further; else torchrun's RANK and WORLD_SIZE say
it, a SLURM job array's index, or the task of an srun. On a machine with G GPUs, --device cuda is R's own, R modulo G"""


@dataclass(frozen=True)
class WorkShare:
    """Rank `rank` of `count`; on its machine, `local_rank` of `local_count`."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_all(self) -> bool:
        """Whether this process does all of the work."""
        return self.count == 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def takes(self, part: int) -> bool:
        """Whether part `part` of the work is this process's. Parts go round, so that no rank has all the long ones."""
        return part % self.count == self.rank

    def describe(self) -> str:
        return f"rank {self.rank} of {self.count}"


ALL_WORK = WorkShare()


def add_share_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--rank` and `--world-size`."""
    group = parser.add_argument_group("many processes")
    group.add_argument("--rank", type=int, metavar="R", help=HELP)
    group.add_argument("--world-size", type=int, metavar="N", help="number of such processes")


def own_share(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> WorkShare:
    """This process's share, by the options of `add_share_options` and by the environment.

    An index of a SLURM job array counts from the array's first, in its steps. Where such a task starts several
    processes by torchrun or srun, or torchrun starts several with the same options, the shares multiply. Raises
    UserError where the numbers make no sense.
    """
    if (args.rank is None) != (args.world_size is None):
        raise UserError("--rank and --world-size go together: one of them is missing")
    started = _started_together(environment)
    if args.rank is not None:
        given = _checked(args.rank, args.world_size, "--rank and --world-size")
        if started.is_all:
            return replace(given, local_rank=given.rank)
        if "TORCHELASTIC_RUN_ID" not in environment:
            # Unlike torchrun's, their options may differ, and be each one's share already.
            raise UserError(
                f"--rank and --world-size are for processes started one by one, but this is one of {started.count}"
                " that were started together and know their shares (srun, or RANK and WORLD_SIZE); leave both out"
            )
        rank, count = given.rank, given.count
    elif "SLURM_ARRAY_TASK_ID" in environment:
        rank, count = _place_in_array(environment)
    else:
        return started
    return replace(started, rank=rank * started.count + started.rank, count=count * started.count)


def _started_together(environment: Mapping[str, str]) -> WorkShare:
    """The place among the processes of one torchrun, or else of one srun."""
    if {"RANK", "WORLD_SIZE"} <= environment.keys():
        return _checked(
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            "RANK and WORLD_SIZE",
            _number(environment, "LOCAL_RANK", 0),
            _number(environment, "LOCAL_WORLD_SIZE", 1),
        )
    num_tasks = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    if num_tasks == 1:
        return ALL_WORK
    return _checked(
        _number(environment, "SLURM_PROCID"),
        num_tasks,
        "SLURM_PROCID and SLURM_STEP_NUM_TASKS",
        _number(environment, "SLURM_LOCALID", 0),
        _number(environment, "SLURM_NTASKS_PER_NODE", 1),
    )


def _place_in_array(environment: Mapping[str, str]) -> tuple[int, int]:
    own = _number(environment, "SLURM_ARRAY_TASK_ID")
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = max(1, _number(environment, "SLURM_ARRAY_TASK_STEP", 1))
    rank, rest = divmod(own - first, step)
    if rest or not 0 <= rank < count:
        raise UserError(
            f"SLURM_ARRAY_TASK_ID is {own} of {count} tasks from {first} in steps of {step}: the array has gaps; use"
            f" one such as --array=0-{count - 1}, or give --rank and --world-size"
        )
    return rank, count


def _checked(
    rank: int, count: int, source: str, local_rank: int = 0, local_count: int = 1
) -> WorkShare:
    if count < 1 or not 0 <= rank < count:
        raise UserError(
            f"{source} say rank {rank} of {count}; expected 0 to {max(count, 1) - 1}, and at least one process"
        )
    return WorkShare(rank, count, max(0, local_rank), max(1, local_count))


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"{name} is {text!r}, expected a whole number") from None
