"""Procedural clips made by several processes and written to shards in the order of their seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import SampleFormat
from data.shard_samples import EncodedSample, encode_clip
from data.shard_writing import ShardWriter, sample_key
from data.worker_pool import map_in_order


def procedural_recipe(first_seed: int, config: SceneConfig) -> dict[str, Any]:
    """What a set of procedural clips is a function of, besides their number."""
    return {
        "source": "procedural",
        "first_seed": first_seed,
        "scene": config.model_dump(mode="json"),
    }


def write_procedural(
    writer: ShardWriter,
    first_seed: int,
    config: SceneConfig,
    *,
    num_workers: int = 1,
    progress: Callable[[int], None] = lambda clips: None,
) -> None:
    """Adds the clips that the writer wants; clip i is made from seed `first_seed` + i.

    The bytes do not depend on `num_workers`. `progress` is called with the number of clips added since
    its last call. Raises UserError where a worker process dies.
    """
    jobs = ((n, first_seed + n, config, writer.sample_format) for n in writer.numbers())
    for sample in map_in_order(_encode, jobs, num_workers):
        writer.add(sample)
        progress(1)


Job = tuple[int, int, SceneConfig, SampleFormat]


def _encode(job: Job) -> EncodedSample:
    number, seed, config, sample_format = job
    return encode_clip(make_clip(seed, config), sample_key(number), sample_format)
