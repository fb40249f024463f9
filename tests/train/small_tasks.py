"""Recipes of all tasks so small that a step takes a moment, and the folder with what they read."""

from __future__ import annotations

import os
from pathlib import Path

import torch
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


def make_folder(root: Path) -> Path:
    """Clips, a codec, and a video model whose weights are random, so that all of it gets a gradient."""
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


def task_run(root: Path, folder: Path, task: str) -> TaskRun:
    return TaskRun(root, f"{task}_{os.getpid()}", (COMMON + TASKS[task]).format(folder))
