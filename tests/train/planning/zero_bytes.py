"""Run as one of several processes: what DeepSpeed really holds in two training steps, for each ZeRO stage.

Prints, as JSON, bytes by stage: what stays after a step, and the most at once in passes and step.
"""

from __future__ import annotations

import json
from unittest import mock

import torch
from torch import nn

import train.deepspeed_engine
from train.engine import EngineConfig, StepRule
from train.engine_choice import create_engine
from train.optimizer import OptimizerConfig
from train.planning.memory_tracker import MemoryTracker
from train.ranks import joined_ranks

WIDTH, DEPTH, BUCKET = 512, 8, 600_000
"""Of the model, and values in the bucket of gradients, which by default is larger than the model."""


def settings_with_small_buckets(config: EngineConfig, rule: StepRule) -> dict[str, object]:
    """DeepSpeed's settings as the engine makes them, but for buckets."""
    settings = real_settings(config, rule)
    settings["zero_optimization"] |= {
        "reduce_bucket_size": BUCKET,
        "stage3_max_live_parameters": 0,
        "stage3_prefetch_bucket_size": 0,
    }
    return settings


real_settings = train.deepspeed_engine.deepspeed_settings


def measure(stage: int, offload: str) -> dict[str, int]:
    with joined_ranks("cpu") as ranks, MemoryTracker() as tracker:
        module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))
        config = EngineConfig(kind="deepspeed", zero_stage=stage, offload=offload)
        engine = create_engine(module, OptimizerConfig(), config, StepRule(1, 1.0), ranks)
        for _ in range(2):
            tracker.restart_peaks()
            engine.backward(engine.model(torch.ones(1, WIDTH)).square().mean())
            passes = tracker.peak
            engine.step(lr=1e-3, norm_limit=float("inf"), skip=False)
        return {"stays": tracker.total, "passes": passes, "peak": tracker.peak}


if __name__ == "__main__":
    import sys

    with mock.patch.object(
        train.deepspeed_engine, "deepspeed_settings", settings_with_small_buckets
    ):
        print(json.dumps(measure(int(sys.argv[1]), sys.argv[2])))
