"""Which part of the camera-conditioned video model does what: variants of one recipe, trained alike and scored.

Each variant is trained by the one loop, from the same base and for as many steps, with several seeds. All are
then scored on the same held-out scenes from the same noise, so that only training differs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from configs.errors import UserError
from configs.loader import Config, load_config
from data.clips import Clip
from data.durable_files import write_durably
from data.procedural.config import SceneConfig
from data.procedural.path_pairs import make_path_pair
from eval.images import metrics
from eval.scores.measured import DIGITS
from models.autoencoders.files import load_autoencoder
from models.perceptual import cached_backbone
from models.pretrained import weights_digest
from models.video.base import load_base
from models.video.camera_branch_files import load_branches
from models.video.model import VideoModel
from models.video.sampling import SamplingConfig
from models.video.text_shards import open_texts
from train.camera_agreement import camera_agreement, summarise
from train.checkpoints import step_name
from train.path_pair_videos import Video, VideoDrawing
from train.randomness import derive_seed
from train.run_folder import RunFolder
from train.tasks.registry import Recipe
from train.tasks.video import VideoConfig, VideoTask

VARIANTS: dict[str, tuple[str, ...]] = {
    "no_camera": (
        "task.branches=null",
        "task.train_base=true",
        "task.base_dtype=float32",
    ),
    "lora": ("task.branches.branches=[lora]",),
    "control": ("task.branches.branches=[control]",),
    "both": ("task.branches.branches=[control, lora]",),
}
"""The paper's three, and the base trained on without cameras, so that mere training can't explain a gain."""
EQUAL = ("task.base", "task.data", "task.batch_size", "loop.steps", "loop.accumulate")
"""What has to be the same in all variants for a comparison at equal steps."""


class SceneSet(Config):
    """Held-out scenes with two paths each; seeds far from any training set's."""

    num_scenes: int = Field(64, gt=0)
    first_seed: int = Field(960_000_000, ge=0)
    travel: tuple[float, float] = Field(
        (0.15, 0.45), description="length of the paths, in median depths"
    )


class AblationConfig(Config):
    """An ablation of the video model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder below runs_root")
    recipe: Path = Field(
        description="recipe of the video task with a `task.base`; all start from it"
    )
    steps: int = Field(gt=0, description="of every run")
    changes: tuple[str, ...] = Field(
        (), description="changes to the recipe, key=value, for all runs"
    )
    variants: dict[str, tuple[str, ...]] = Field(
        VARIANTS, min_length=1, description="by name, what sets each apart: changes, key=value"
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    scenes: SceneSet = SceneSet()
    sampling: SamplingConfig = SamplingConfig(steps=25)
    batch_size: int = Field(8, gt=0, description="clips sampled at once when scoring")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where scoring runs")
    runs_root: Path = Path("runs")

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {list(seeds)} name one twice")
        return seeds


@dataclass(frozen=True)
class TrainingRun:
    """One variant with one seed."""

    variant: str
    seed: int
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def label(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.recipe)

    @property
    def config(self) -> VideoConfig:
        assert isinstance(self.recipe.task, VideoConfig)
        return self.recipe.task

    def is_finished(self) -> bool:
        """Whether it was trained to its last step, and its weights exported after that.

        Raises UserError where the folder holds a run by another recipe.
        """
        folder = self.folder
        folder.check()
        last = folder.checkpoints / step_name(self.recipe.loop.steps)
        if not (last.is_dir() and folder.weights.is_dir()):
            return False
        return folder.weights.stat().st_mtime >= last.stat().st_mtime


class Ablation:
    """The runs and scores of one ablation, all in one folder, new or gone on with."""

    def __init__(self, config: AblationConfig) -> None:
        self.config = config
        self.folder = config.runs_root / config.name
        self.runs = list(self._make_runs())
        self._check_equal()

    def score(self, run: TrainingRun) -> dict[str, Any]:
        """The run's measures, from its file where that is of these weights and settings, else made now."""
        path = self.folder / "scores" / f"{run.variant}_seed_{run.seed}.json"
        identity = self._identity(run)
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("identity") == identity:
                return found
        score = {
            "variant": run.variant,
            "seed": run.seed,
            **self._measure(run),
            "identity": identity,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (json.dumps(score, indent=1) + "\n").encode())
        return score

    def command(self, run: TrainingRun) -> str:
        """What trains the run elsewhere, on a cluster for example; afterwards it counts as finished here."""
        words = ["./launch.sh", "train", str(self.config.recipe), *run.overrides]
        return " ".join(shlex.quote(word) for word in words)

    @cached_property
    def pairs(self) -> list[tuple[Clip, Clip]]:
        """The true clips of each scene's own and mirrored path, at the recipe's size."""
        task = self._task(self.runs[0])
        scenes = SceneConfig(
            height=task.size[0],
            width=task.size[1],
            num_frames=task.config.windows.num_frames,
            travel=self.config.scenes.travel,
        )
        first = self.config.scenes.first_seed
        return [make_path_pair(first + n, scenes) for n in range(self.config.scenes.num_scenes)]

    @torch.no_grad()
    def _measure(self, run: TrainingRun) -> dict[str, Any]:
        """Camera agreement, and similarity to the own path's truth in all frames but the first, which goes in."""
        model, drawing = self._load(run)
        videos = drawing.pairs(model, self.pairs)
        agreement = summarise(
            [camera_agreement(t, v) for t, v in zip(self.pairs, videos, strict=True)]
        )
        measures: dict[str, float | None] = {**agreement, **self._similarity(videos)}
        trained = model.base.transformer if model.branches is None else model.branches
        return {
            "measures": {
                name: None if value is None else round(value, DIGITS)
                for name, value in measures.items()
            },
            "trained_parameters": sum(p.numel() for p in trained.parameters()),
            "scenes": len(self.pairs),
        }

    def _similarity(self, videos: list[tuple[Video, Video]]) -> dict[str, float | None]:
        found: dict[str, list[float]] = {"ssim": [], "lpips": []}
        for pair, drawn in zip(self.pairs, videos, strict=True):
            for clip, video in zip(pair, drawn, strict=True):
                found["ssim"].append(float(metrics.ssim(video[1:], clip.frames[1:]).mean()))
                distance = metrics.lpips(video[1:], clip.frames[1:])
                if distance is not None:
                    found["lpips"].append(float(distance.mean()))
        return {name: sum(v) / len(v) if v else None for name, v in found.items()}

    def _load(self, run: TrainingRun) -> tuple[VideoModel, VideoDrawing]:
        """The trained model, and how it is sampled: with the text that it was trained with."""
        task, weights = run.config, run.folder.weights
        assert task.base is not None
        dtype = getattr(torch, task.base_dtype)
        base = load_base(weights / "base" if task.train_base else task.base, dtype)
        branches = None
        if task.branches is not None:
            branches = load_branches(weights / "branches", base.transformer, dtype)
        device = self._device()
        model = VideoModel(base, branches, train_base=False).to(device)
        autoencoder = load_autoencoder(task.autoencoder)
        if isinstance(autoencoder, nn.Module):
            autoencoder.to(device)
        text = None
        if task.text is not None:
            text = open_texts(self._task(run).indices, task.text).empty
        return model, VideoDrawing(
            autoencoder, self.config.sampling, _noise, self.config.batch_size, text
        )

    def _identity(self, run: TrainingRun) -> dict[str, Any]:
        config = self.config
        return {
            "weights": weights_digest(run.folder.weights),
            "scenes": config.scenes.model_dump(mode="json"),
            "sampling": config.sampling.model_dump(mode="json"),
            "batch_size": config.batch_size,
            "lpips": cached_backbone("alex") is not None,
        }

    def _task(self, run: TrainingRun) -> VideoTask:
        return VideoTask.open(run.config, run.seed)

    def _device(self) -> torch.device:
        wanted, there = self.config.device, torch.cuda.is_available()
        if wanted == "cuda" and not there:
            raise UserError("device is cuda, but PyTorch finds no CUDA GPU here; use device=cpu")
        return torch.device("cuda" if there and wanted != "cpu" else "cpu")

    def _make_runs(self) -> Iterator[TrainingRun]:
        config = self.config
        common = load_config(config.recipe, config.changes, Recipe)
        if not isinstance(common.task, VideoConfig) or common.task.base is None:
            raise UserError(
                f"{config.recipe}: an ablation needs a recipe of the video task with a task.base, from which"
                " all variants start"
            )
        for seed in config.seeds:
            for variant, own in config.variants.items():
                overrides = (
                    *config.changes,
                    f"loop.steps={config.steps}",
                    *own,
                    f"name={config.name}/{variant}/seed_{seed}",
                    f"runs_root={config.runs_root}",
                    f"seed={seed}",
                    "resume=auto",
                )
                recipe = load_config(config.recipe, overrides, Recipe)
                yield TrainingRun(variant, seed, overrides, recipe)

    def _check_equal(self) -> None:
        for key in EQUAL:
            found = {run.variant: _value(run.recipe, key) for run in self.runs}
            if any(value != found[self.runs[0].variant] for value in found.values()):
                listed = ", ".join(f"{name}: {value}" for name, value in found.items())
                raise UserError(
                    f"{key} must be the same in all variants, for a comparison at equal steps; found {listed}"
                )


def _noise(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed("ablation", number))


def _value(recipe: Recipe, key: str) -> Any:
    owner: Any = recipe
    for part in key.split("."):
        owner = getattr(owner, part)
    return owner
