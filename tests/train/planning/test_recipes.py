"""Every recipe of ours takes one whole step under fake tensors; the full ones are as large as the paper's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.loader import load_config
from train.planning.outline import outline_recipe
from train.planning.rehearsal import CUDA_BLOCK, Rehearsal, check_devices, rehearse
from train.planning.sizes import ROOT
from train.tasks.registry import Recipe

CONFIGS = ROOT / "configs"
NOT_TRAINED = {"tiny/ablation_video.yaml", "tiny/linear_codec.yaml"}
"""One is a set of runs, the other is fitted in closed form."""
FULL = [
    "full/reconstruction_stage1.yaml",
    "full/reconstruction_stage2.yaml",
    "full/video_camera.yaml",
]
OTHERS = sorted(
    path.relative_to(CONFIGS).as_posix()
    for scale in ("small", "tiny")
    for path in (CONFIGS / scale).glob("*.yaml")
)


pytestmark = pytest.mark.timeout(
    600
)  # the largest take a quarter of a minute where nothing else runs


@pytest.fixture(autouse=True)
def _from_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def load(name: str, *overrides: str) -> tuple[Recipe, Path]:
    path = CONFIGS / name
    return load_config(path, list(overrides), Recipe), path


@dataclass
class Step:
    """A rehearsed step. weights, tensors: how many of them train. sample: its shapes. tokens: of a clip."""

    weights: int
    tensors: int
    sample: dict[str, tuple[int, ...]]
    tokens: dict[str, int]
    rehearsal: Rehearsal


@cache
def step_of(name: str) -> Step:
    outline = outline_recipe(*load(name))
    sizes = [p.numel() for p in outline.model.parameters() if p.requires_grad]
    rehearsal = rehearse(outline, 1)
    return Step(sum(sizes), len(sizes), outline.sample, outline.tokens, rehearsal)


def test_no_full_recipe_is_left_out() -> None:
    assert [f"full/{path.name}" for path in sorted((CONFIGS / "full").glob("*.yaml"))] == FULL


@pytest.mark.parametrize(
    "name",
    [*FULL, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS if n not in NOT_TRAINED)],
)
def test_a_whole_step(name: str) -> None:
    """Forward, loss, backward and optimizer; every weight gets a gradient and both of AdamW's averages."""
    step = step_of(name)
    found = step.rehearsal
    assert found.losses[0] == "loss" and found.without_gradient == ()
    assert 0 <= found.gradients - 4 * step.weights < CUDA_BLOCK * step.tensors
    assert found.states == 4 * (2 * step.weights + step.tensors)  # and a count of steps each
    assert sum(found.backward.values()) > sum(found.forward.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_all_is_on_one_device(name: str) -> None:
    check_devices(outline_recipe(*load(name)), 1)


def test_camera_branches_are_the_papers() -> None:
    """Sec. 3.2: 21 of 42 blocks copied, rank 256, 49 frames of 480x720 as 13x30x45 tokens; a frozen base in bf16."""
    step = step_of("full/video_camera.yaml")
    assert step.weights == 3_271_987_200
    assert step.tokens == {"visual": 13 * 30 * 45, "text": 226}
    assert step.sample["latents"] == (16, 13, 60, 90)
    base = outline_recipe(*load("full/video_camera.yaml")).frozen["base"]
    frozen = [p for p in base.parameters() if not p.requires_grad]  # LoRA's hang there too
    assert sum(p.numel() for p in frozen) == 5_570_479_680
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    # Nearly all FLOPs are those of 63 blocks: products of 12 d^2 weights, and attention.
    length, width = 13 * 30 * 45 + 226, 3072
    blocks = 63 * (2 * length * 12 * width**2 + 4 * length**2 * width)
    assert blocks < step.rehearsal.forward["model"] < 1.1 * blocks


@pytest.mark.parametrize(
    ("stage", "latents"), [(1, (13, 32, 48)), (2, (13, 60, 90))], ids=["stage1", "stage2"]
)
def test_lalrm_is_the_papers(stage: int, latents: tuple[int, int, int]) -> None:
    """Sec. 3.3: 24 blocks of width 1024, counted by hand; both stages have the same weights."""
    step = step_of(f"full/reconstruction_stage{stage}.yaml")
    d, depth = 1024, 24
    block = (
        12 * d**2 + 10 * d + 2 * d // 16
    )  # products, biases and norms, norms of queries and keys
    embeddings = (16 * 2 * 2 * d + d) + (6 * 4 * 16 * 16 * d + d) + 4 * d + (2 * d * d + d)
    decoder = 2 * d + d * 12 * 5 * 8 * 8 + 12
    assert step.weights == depth * block + embeddings + decoder
    tokens = math.prod(latents) // 4
    assert step.sample["latents"] == (16, *latents)
    assert step.tokens == {"visual": tokens}
    blocks = depth * (2 * tokens * 12 * d**2 + 4 * tokens**2 * d)
    assert blocks < step.rehearsal.forward["model"] < 1.1 * blocks


def test_45_does_not_divide() -> None:
    """The paper's low resolution, which stage 1 does without."""
    recipe = load("full/reconstruction_stage1.yaml", "task.frame_size=[240,360]")
    with pytest.raises(UserError, match="both sides must divide by 16"):
        rehearse(outline_recipe(*recipe), 1)


def test_a_mistake_in_a_full_recipe_is_found() -> None:
    """Without autocast the frozen base's bfloat16 meets the branches' float32."""
    recipe, file = load("full/video_camera.yaml")
    engine = recipe.engine.model_copy(update={"precision": "fp32"})  # which a recipe may not say
    with pytest.raises(RuntimeError, match="one dtype"):
        rehearse(outline_recipe(recipe.model_copy(update={"engine": engine}), file), 1)
