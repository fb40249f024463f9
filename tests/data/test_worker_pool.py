"""Results in order, workers that die, and bounds on what waits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from configs.errors import UserError
from data.worker_pool import map_in_order

# What runs in a worker must be found there by name, and tests are no package: so the jobs are made of the library's.


def test_one_worker_is_this_process_and_takes_jobs_one_by_one():
    taken: list[int] = []

    def jobs():
        for job in range(5):
            taken.append(job)
            yield job

    results = map_in_order(lambda job: (job, os.getpid()), jobs(), 1)
    assert next(results) == (0, os.getpid()) and taken == [0]
    assert [job for job, _ in results] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.distributed
def test_results_come_in_order_and_few_jobs_wait():
    taken: list[int] = []

    def jobs():
        for job in range(40):
            taken.append(job)
            yield job

    results = map_in_order(abs, jobs(), 2, queued_per_worker=3)
    for expected in range(40):
        assert next(results) == expected
        assert len(taken) <= expected + 1 + 6
    assert next(results, None) is None


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_that_kills_its_worker_is_told_from_the_others():
    def jobs() -> list[str]:
        return [
            "1 + 1",
            f"__import__('os').kill(__import__('os').getpid(), {signal.SIGKILL})",
            "2 + 2",
            "3 + 3",
        ]

    function: Callable[[str], object] = eval
    with pytest.raises(UserError, match="a worker process was killed.*--resume --workers 1"):
        list(map_in_order(function, jobs(), 2))
    found = list(map_in_order(function, jobs(), 2, killed=lambda job: f"killed by {job[:10]}"))
    assert found == [2, "killed by __import__", 4, 6]
