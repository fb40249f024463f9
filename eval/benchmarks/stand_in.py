"""A training recipe over clips made here, so that it can be timed where none of its data exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from configs.loader import load_config
from data.clip_windows import WindowConfig
from data.procedural.config import SceneConfig
from data.procedural_shards import procedural_recipe, write_procedural
from data.shard_index import ShardIndex
from data.shard_writing import ShardWriter
from models.autoencoders.files import load_autoencoder
from models.autoencoders.latent_shards import write_latents
from models.bundled_weights import TINY_VIDEO_BASE
from train.engine import Engine, StepRule, set_threads
from train.engine_choice import create_engine
from train.ranks import joined_ranks
from train.task import Task
from train.tasks.autoencoder import AutoencoderConfig
from train.tasks.reconstruction import ReconstructionConfig
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig

TaskConfig = ReconstructionConfig | AutoencoderConfig | VideoConfig

NUM_CLIPS = 24
FIRST_SEED = 700_000_000
NEVER = 1_000_000_000
"""An interval in steps that no benchmark reaches."""


@dataclass(frozen=True)
class StandIn:
    """A recipe and what is laid over it.

    save_every: steps from one checkpoint to the next, as the recipe has it.
    notes: what else differs from the recipe, in words.
    """

    recipe: Path
    overrides: tuple[str, ...]
    save_every: int
    notes: tuple[str, ...]

    def load(self, *more: str) -> Recipe:
        return load_config(self.recipe, [*self.overrides, *more], Recipe)


def stand_in(recipe: Path, folder: Path, threads: int) -> StandIn:
    """The recipe on the CPU over `NUM_CLIPS` procedural clips, which are written to `folder`.

    A step is one batch; validation is cut to one clip. Latents are stored with the clips where the recipe reads
    stored ones. Raises UserError where the recipe, or a model that it names, is unfit.
    """
    config = load_config(recipe, [], Recipe)
    task = config.task
    shards = folder / "shards"
    fitted = _fitted(task)
    overrides = (
        f"task.data={json.dumps([str(shards)] * len(task.data))}",
        f"task.validation_data={json.dumps(str(shards))}",
        f"runs_root={json.dumps(str(folder / 'runs'))}",
        "resume=never",
        "engine.kind=plain",
        "engine.device=cpu",
        "engine.offload=none",
        f"engine.threads={threads}",
        "loop.accumulate=1",
        "loop.log_every=1",
        "loop.keep_checkpoints=1",
        "loop.max_minutes=null",
        f"loop.validate_every={NEVER}",
        f"loop.save_every={NEVER}",
        *fitted.overrides,
    )
    _write_clips(task, fitted.windows, shards)
    return StandIn(recipe, overrides, config.loop.save_every, tuple(fitted.notes))


@dataclass
class _Fitted:
    """What a task takes of a clip, and what is laid over it so that it needs nothing that is not here."""

    windows: WindowConfig
    overrides: list[str]
    notes: list[str] = field(default_factory=list)

    def replace(self, key: str, value: str, note: str) -> None:
        self.overrides.append(f"{key}={value}")
        self.notes.append(note)


def _fitted(task: TaskConfig) -> _Fitted:
    if isinstance(task, VideoConfig):
        small = ["task.validation.num_scenes=0", "task.validation.num_clips=1"]
        fitted = _Fitted(task.windows, small)
        if task.base is not None and not task.base.exists():
            note = f"the bundled video base, as {task.base} is not there"
            fitted.replace("task.base", str(TINY_VIDEO_BASE), note)
        if task.branches_from is not None and not task.branches_from.exists():
            note = f"new branches, as {task.branches_from} is not there"
            fitted.replace("task.branches_from", "null", note)
        if task.text is not None:
            fitted.replace("task.text", "null", "the zero embedding in place of stored text")
    elif isinstance(task, ReconstructionConfig):
        small = ["task.num_validation_clips=1", f"task.color_skip_clips={NUM_CLIPS}"]
        fitted = _Fitted(WindowConfig(num_frames=task.views.num_input), small)
        if task.init_from is not None and not task.init_from.exists():
            note = f"new weights, as {task.init_from} is not there"
            fitted.replace("task.init_from", "null", note)
    else:
        small = ["task.num_validation_clips=1", f"task.fit_clips={NUM_CLIPS}"]
        fitted = _Fitted(WindowConfig(num_frames=task.num_frames), small)
    return fitted


def _write_clips(task: TaskConfig, windows: WindowConfig, shards: Path) -> None:
    # Before the clips are made, which takes a while: it may not be there.
    frozen = None if isinstance(task, AutoencoderConfig) else load_autoencoder(task.autoencoder)
    height, width = task.frame_size or (64, 96)
    scene = SceneConfig(
        height=height, width=width, num_frames=(windows.num_frames - 1) * max(windows.strides) + 1
    )
    writer = ShardWriter(shards, recipe=procedural_recipe(FIRST_SEED, scene), expected=NUM_CLIPS)
    with writer:
        write_procedural(writer, FIRST_SEED, scene)
    if frozen is None or isinstance(task, AutoencoderConfig):
        return
    # Other recipes' folders of clips may have latents or not.
    if task.latents == "stored" or (task.latents == "auto" and isinstance(task, VideoConfig)):
        write_latents(ShardIndex.load(shards), frozen, task.autoencoder, windows)


@contextmanager
def engine_of(task: Task, config: Recipe) -> Iterator[Engine]:
    """The engine of one process on the CPU with the task's model."""
    with joined_ranks("cpu") as ranks:
        rule = StepRule(1, config.loop.clip_norm)
        yield create_engine(task.build(), config.optimizer, config.engine, rule, ranks)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many torch threads while entered."""
    before = torch.get_num_threads()
    set_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
