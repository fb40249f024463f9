"""Which share of the work a process has: by flags, torchrun, srun and SLURM job arrays."""

from __future__ import annotations

import argparse

import pytest

from configs.errors import UserError
from data.work_share import WorkShare, add_share_options, own_share


def share(*argv: str, **environment: str) -> WorkShare:
    parser = argparse.ArgumentParser()
    add_share_options(parser)
    return own_share(parser.parse_args(argv), environment)


ARRAY = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"}
TASKS = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"}


def test_a_lone_process_does_everything():
    assert share() == WorkShare() and share().is_all
    alone_under_slurm = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert share(**alone_under_slurm).is_all


def test_each_launcher_is_understood():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert share(**torchrun) == WorkShare(5, 8, 1, 4)
    assert share(**ARRAY, SLURM_ARRAY_TASK_ID="14") == WorkShare(2, 4)
    assert share(**TASKS, SLURM_PROCID="2") == WorkShare(2, 3, 1, 2)
    both = share(**ARRAY, **TASKS, SLURM_ARRAY_TASK_ID="14", SLURM_PROCID="2")
    assert (both.rank, both.count) == (2 * 3 + 2, 12)
    both = share(**ARRAY, **torchrun, SLURM_ARRAY_TASK_ID="16")
    assert both == WorkShare(3 * 8 + 5, 32, 1, 4)


def test_given_shares_multiply_with_those_of_nproc():
    """As on each of two machines: without it both processes would have the same share."""
    torchrun = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "none"}
    shares = [
        share("--rank", machine, "--world-size", "2", RANK=rank, LOCAL_RANK=rank, **torchrun)
        for machine in "01"
        for rank in "012"
    ]
    assert shares == [WorkShare(rank, 6, rank % 3, 3) for rank in range(6)]


def test_processes_started_by_hand_on_one_machine_have_places_on_it():
    """By which each takes a GPU of its own."""
    shares = [share("--rank", rank, "--world-size", "2") for rank in "01"]
    assert shares == [WorkShare(0, 2, 0), WorkShare(1, 2, 1)]
    lone_torchrun = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}
    assert share("--rank", "1", "--world-size", "2", **lone_torchrun) == WorkShare(1, 2, 1)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_every_part_is_taken_once(count):
    shares = [WorkShare(rank, count) for rank in range(count)]
    assert all(sum(share.takes(part) for share in shares) == 1 for part in range(20))


@pytest.mark.parametrize(
    ("argv", "environment", "message"),
    [
        (["--rank", "1"], {}, "go together"),
        (
            ["--rank", "1", "--world-size", "3"],
            {**TASKS, "SLURM_PROCID": "1"},
            "one of 3 that were",
        ),
        (
            ["--rank", "1", "--world-size", "2"],
            {"RANK": "1", "WORLD_SIZE": "2"},
            "leave both out",
        ),
        (["--rank", "2", "--world-size", "2"], {}, "rank 2 of 2; expected 0 to 1"),
        ([], {"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        (
            [],
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "13"},
            "the array has gaps; use one such as --array=0-3",
        ),
        ([], {**ARRAY, "SLURM_ARRAY_TASK_ID": "20"}, "the array has gaps"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(argv, environment, message):
    with pytest.raises(UserError, match=message):
        share(*argv, **environment)
