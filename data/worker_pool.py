"""Work shared among processes of one machine, its results in the order of the jobs."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

import torch

from configs.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

QUEUED_PER_WORKER = 4


def map_in_order(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    num_workers: int,
    *,
    queued_per_worker: int = QUEUED_PER_WORKER,
    killed: Callable[[Job], Result] | None = None,
) -> Iterator[Result]:
    """`function` of each job, in the jobs' order; with one worker, in this process.

    At most `queued_per_worker` jobs a worker are under way or wait to be taken, so that memory is bounded.

    killed: what stands in for the result of a job that ends its worker, as a decoder's crash does. The jobs that
        were under way are done again one by one, to tell which it was. Without, a worker's end is a UserError.
    """
    if num_workers <= 1:
        yield from map(function, jobs)
        return
    jobs = iter(jobs)
    queue: deque[tuple[Job, Future[Result]]] = deque()
    pool = _Pool(num_workers)
    try:
        while True:
            for job in islice(jobs, queued_per_worker * num_workers - len(queue)):
                queue.append((job, pool.submit(function, job)))
            if not queue:
                return
            try:
                result = queue[0][1].result()
            except BrokenProcessPool as error:
                pool.end()
                if killed is None:
                    raise UserError(
                        "a worker process was killed, probably for want of memory; go on with --resume --workers"
                        f" {max(1, num_workers // 2)}"
                    ) from error
                for job, _ in queue:
                    yield _alone(function, job, killed)
                queue.clear()
                pool = _Pool(num_workers)
            else:
                queue.popleft()
                yield result
    finally:
        pool.end()


class _Pool:
    """Worker processes that start with the first job."""

    def __init__(self, num_workers: int) -> None:
        # Forked processes could inherit locks of numba's and OpenMP's threads; spawned ones can't.
        self._executor = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)

    def submit(self, function: Callable[[Job], Result], job: Job) -> Future[Result]:
        try:
            return self._executor.submit(function, job)
        except BrokenProcessPool as error:
            broken: Future[Result] = Future()
            broken.set_exception(error)
            return broken

    def end(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _alone(function: Callable[[Job], Result], job: Job, killed: Callable[[Job], Result]) -> Result:
    pool = _Pool(1)
    try:
        return pool.submit(function, job).result()
    except BrokenProcessPool:
        return killed(job)
    finally:
        pool.end()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["NUMBA_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A parent that is killed can't tell its workers, which would wait for jobs for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
