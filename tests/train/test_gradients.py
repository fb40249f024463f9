"""The gradient of two ranks is that of one process on the same global batch, for every task and ZeRO stage.

With beta1 = 0 AdamW's first average is the gradient of its first step, and a checkpoint holds it whole.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_run import TaskRun

from data.clip_windows import WindowConfig
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from models.autoencoders.latent_shards import write_latents
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.video.base import VideoModelConfig, create_base, save_base
from models.video.camera_branch_files import save_branches
from models.video.camera_branches import CameraBranches, CameraBranchesConfig

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

SCENES = SceneConfig(height=32, width=48, num_frames=9, num_near=1, num_far=1, supersampling=1)
BASE = VideoModelConfig(
    latent_channels=8, heads=2, head_width=16, layers=2, patch=2, time_width=16, text_width=8, text_tokens=1,
    num_frames=9, height=32, width=48, learned_positions=False,
)  # fmt: skip
BRANCHES = CameraBranchesConfig(control_blocks=1, lora_rank=2, encoder_width=8)
COMMON = """
name: run
optimizer: {{betas: [0.0, 0.95]}}
loop: {{steps: 1, accumulate: 2, clip_norm: null}}
task:
  batch_size: 4
  num_workers: 0
  data: [{0}/shards]
  validation_data: {0}/shards
"""
TASKS = {
    "linear": """
  kind: autoencoder
  num_frames: 9
  num_validation_clips: 1
  fit_clips: 4
  model: {{kind: linear, latent_channels: 4}}
""",
    "cogvideox": """
  kind: autoencoder
  num_frames: 9
  num_validation_clips: 1
  loss: {{kl: 1.0e-3}}
  model: {{kind: cogvideox, latent_channels: 4, block_out_channels: [8, 8, 8, 8], norm_groups: 4}}
""",
    "reconstruction": """
  kind: reconstruction
  autoencoder: {0}/codec
  num_validation_clips: 1
  views: {{num_input: 9, num_seen: 2, num_unseen: 1}}
  loss: {{depth: 0.1, opacity: 0.01, scale: 0.1}}
  model: {{latent_channels: 8, width: 32, depth: 2, heads: 2, gradient_checkpointing: true}}
""",
    "video": """
  kind: video
  autoencoder: {0}/codec
  windows: {{num_frames: 9}}
  validation: {{num_clips: 1, num_scenes: 0}}
  base: {0}/base
  branches: {{control_blocks: 1, lora_rank: 2, encoder_width: 8}}
  branches_from: {0}/branches
  gradient_checkpointing: true
""",
    "video_base": """
  kind: video
  autoencoder: {0}/codec
  windows: {{num_frames: 9}}
  validation: {{num_clips: 1, num_scenes: 0}}
  base: {0}/base
  train_base: true
""",
}
QUICK = {("linear", 0), ("reconstruction", 1), ("video_base", 2), ("video", 3)}
CASES = [
    pytest.param(task, stage, marks=() if (task, stage) in QUICK else pytest.mark.slow)
    for task in TASKS
    for stage in range(4)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, a codec, and a video model whose weights are random, so that all of it gets a gradient."""
    root = tmp_path_factory.mktemp("gradients")
    clips = [make_clip(seed, SCENES) for seed in range(6)]
    index = write_shards(clips, root / "shards")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = LinearCodec(LinearCodecConfig(latent_channels=8))
        codec.fit(torch.stack([clip.frames[:9] for clip in clips]))
        codec.save_pretrained(root / "codec")
        write_latents(index, codec, root / "codec", WindowConfig(num_frames=9))
        base = create_base(BASE)
        for parameter in base.transformer.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_base(base, root / "base")
        branches = CameraBranches(BRANCHES, base.transformer)
        for parameter in branches.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_branches(branches, root / "branches")
    return root


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The gradients of one process, by task; made when first asked for."""
    root = tmp_path_factory.mktemp("alone")

    class Gradients(dict[str, dict[str, Tensor]]):
        def __missing__(self, task: str) -> dict[str, Tensor]:
            run = task_run(root, folder, task)
            codes = run.join([run.spawn()])
            assert codes == [0], run.log.read_text()
            self[task] = gradient(run)
            return self[task]

    return Gradients()


@pytest.mark.parametrize(("task", "stage"), CASES)
def test_two_ranks_have_the_gradient_of_one_process(
    folder: Path, alone: dict[str, dict[str, Tensor]], tmp_path: Path, task: str, stage: int
) -> None:
    run = task_run(tmp_path, folder, task)
    codes = run.start_ranks(2, f"engine.zero_stage={stage}")
    assert codes == [0, 0], run.log.read_text()
    found, expected = gradient(run), alone[task]
    assert found.keys() == expected.keys() and len(found) > 3
    largest = max(float(value.norm()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        error = float((found[name] - value).norm())
        assert error <= 1e-5 * max(float(value.norm()), 1e-3 * largest), name
    if "gradient_checkpointing" in TASKS[task]:
        assert "activation checkpointing is on" in run.log.read_text()


def task_run(root: Path, folder: Path, task: str) -> TaskRun:
    return TaskRun(root, f"{task}_{os.getpid()}", (COMMON + TASKS[task]).format(folder))


def gradient(run: TaskRun) -> dict[str, Tensor]:
    saved = run.checkpoint(1)
    return {key: value for key, value in saved.items() if key.endswith("/exp_avg")}
