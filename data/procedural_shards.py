"""Procedural clips made by several processes and written to shards in the order of their seeds."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from configs.errors import UserError
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import SampleFormat
from data.shard_samples import EncodedSample, encode_clip
from data.shard_writing import ShardWriter, sample_key

QUEUED_PER_WORKER = 4


def procedural_recipe(first_seed: int, config: SceneConfig) -> dict[str, Any]:
    """What a set of procedural clips is a function of, besides their number."""
    return {
        "source": "procedural",
        "first_seed": first_seed,
        "scene": config.model_dump(mode="json"),
    }


def write_procedural(
    writer: ShardWriter,
    num_clips: int,
    first_seed: int,
    config: SceneConfig,
    *,
    num_workers: int = 1,
    progress: Callable[[int], None] = lambda clips: None,
) -> None:
    """Adds clips until the writer has `num_clips`; clip i is made from seed `first_seed` + i.

    The bytes do not depend on `num_workers`. `progress` is called with the number of clips added since
    its last call. Raises UserError where a worker process dies.
    """
    numbers = range(writer.num_written, num_clips)
    jobs = ((number, first_seed + number, config, writer.sample_format) for number in numbers)
    for sample in _encoded(jobs, num_workers):
        writer.add(sample)
        progress(1)


Job = tuple[int, int, SceneConfig, SampleFormat]


def _encoded(jobs: Iterator[Job], num_workers: int) -> Iterator[EncodedSample]:
    if num_workers <= 1:
        yield from map(_encode, jobs)
        return
    # Forked processes could inherit locks of numba's and OpenMP's threads; spawned ones can't.
    executor = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)
    queue: deque[Future[EncodedSample]] = deque()
    try:
        for job in jobs:
            queue.append(executor.submit(_encode, job))
            if len(queue) >= QUEUED_PER_WORKER * num_workers:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process that makes clips was killed, probably for want of memory; go on with"
            f" --resume --workers {max(1, num_workers // 2)}"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _encode(job: Job) -> EncodedSample:
    number, seed, config, sample_format = job
    return encode_clip(make_clip(seed, config), sample_key(number), sample_format)


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
