from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.loader import load_config
from train.memory_advice import (
    NUM_SUGGESTIONS,
    is_out_of_memory,
    out_of_memory_explained,
    suggestions,
)
from train.ranks import Ranks
from train.tasks.registry import Recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(
    str(path.relative_to(ROOT))
    for scale in ("tiny", "small", "full")
    for path in (ROOT / "configs" / scale).glob("*.yaml")
    if not path.name.startswith("ablation")
)


@pytest.mark.parametrize("file", RECIPES)
@pytest.mark.parametrize("ranks", [Ranks(), Ranks(1, 24, torch.device("cuda"))])
def test_every_recipe_gets_three_changes_that_it_can_take(file: str, ranks: Ranks) -> None:
    """Those written as key=value are laid over the recipe, which has to be valid then and another than before."""
    recipe = load_config(ROOT / file, [], Recipe)
    found = suggestions(recipe, ranks)[:NUM_SUGGESTIONS]
    assert len(set(found)) == NUM_SUGGESTIONS
    for text in found:
        overrides = [word for word in text.split() if "=" in word and word != "resume=auto"]
        if overrides:
            changed = load_config(ROOT / file, overrides, Recipe)
            assert changed != recipe
            samples = recipe.task.batch_size * recipe.loop.accumulate
            assert changed.task.batch_size * changed.loop.accumulate == samples


def test_what_is_on_already_is_not_proposed() -> None:
    overrides = ["task.gradient_checkpointing=true", "engine.precision=bf16", "engine.zero_stage=3"]
    recipe = load_config(ROOT / "configs/full/video_camera.yaml", overrides, Recipe)
    ranks = Ranks(0, 24, torch.device("cuda"))
    text = " ".join(suggestions(recipe, ranks))
    assert "checkpointing" not in text and "precision" not in text and "zero_stage" not in text
    assert "engine.offload=optimizer with resume=auto" in text


def test_the_messages_of_pytorch_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_other_errors_stay_what_they_are() -> None:
    recipe = load_config(ROOT / RECIPES[0], [], Recipe)
    with (
        pytest.raises(RuntimeError, match="^no$"),
        out_of_memory_explained(recipe, Ranks()),
    ):
        raise RuntimeError("no")
    with (
        pytest.raises(UserError, match=r"asked for 2\.50 GiB more\); the peak was .* of host"),
        out_of_memory_explained(recipe, Ranks()),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")
