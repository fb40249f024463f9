from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steered_models import COMBINATIONS, TINY, Inputs, NewBase, attached, call, randomise
from torch import nn

from configs.errors import UserError
from data.cameras import Cameras
from models.video.base import load_base, save_base
from models.video.camera_branch_files import LORA_FILE, load_branches, save_branches
from models.video.camera_branches import CameraBranches, CameraBranchesConfig
from models.video.model import VideoModel


@pytest.mark.parametrize("config", COMBINATIONS)
def test_branches_survive_a_round_trip(
    tmp_path: Path,
    new_video_base: NewBase,
    video_inputs: Inputs,
    video_cameras: Cameras,
    config: CameraBranchesConfig,
) -> None:
    model = attached(new_video_base(), config)
    randomise(model)
    assert model.branches is not None
    expected = model(*video_inputs, cameras=video_cameras)
    save_branches(model.branches, tmp_path)
    assert (tmp_path / LORA_FILE).is_file() == (model.branches.lora is not None)
    base = new_video_base()
    loaded = load_branches(tmp_path, base.transformer)
    assert not loaded.training
    model = VideoModel(base, loaded, train_base=False)
    assert torch.equal(model(*video_inputs, cameras=video_cameras), expected)


def test_half_precision_files_fit_a_rounded_base(
    tmp_path: Path, new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    model = attached(new_video_base())
    randomise(model)
    assert model.branches is not None
    expected = model(*video_inputs, cameras=video_cameras)
    save_branches(model.branches, tmp_path / "branches", torch.float16)
    save_base(model.base, tmp_path / "base", torch.float16)  # with the branches still attached
    for dtype, tolerance in ((torch.float32, 0.01), (torch.bfloat16, 0.15)):
        base = load_base(tmp_path / "base", dtype)
        branches = load_branches(tmp_path / "branches", base.transformer, dtype)
        loaded = VideoModel(base, branches, train_base=False)
        found = loaded(*video_inputs, cameras=video_cameras)
        assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_plain_diffusers_takes_the_low_rank_updates(
    tmp_path: Path, new_video_base: NewBase, video_inputs: Inputs, video_cameras: Cameras
) -> None:
    config = TINY.model_copy(update={"branches": ("lora",)})
    model = attached(new_video_base(), config)
    randomise(model)
    assert model.branches is not None and model.branches.fusion is not None
    for parameter in model.branches.fusion.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(model.branches.fusion.visual.weight)
    expected = model(*video_inputs, cameras=video_cameras).transpose(1, 2)
    save_branches(model.branches, tmp_path)
    plain = new_video_base()
    bare = call(plain, video_inputs)
    plain.transformer.load_lora_adapter(str(tmp_path), weight_name=LORA_FILE)
    torch.testing.assert_close(call(plain, video_inputs), expected)
    assert not torch.allclose(bare, expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 4}, "heads 4 instead of 2"),
        ({"layers": 2}, "layers 2 instead of 3"),
        ({"patch": 1}, "patch 1 instead of 2"),
        ({"time_width": 8, "latent_channels": 8}, "time_width 8 instead of 16, latent_channels 8"),
        ({"seed": 7}, "of the same size but with other weights"),
    ],
)
def test_branches_of_another_base_are_refused(
    tmp_path: Path, new_video_base: NewBase, changes: dict[str, int], sentence: str
) -> None:
    branches = CameraBranches(TINY, new_video_base().transformer)
    save_branches(branches, tmp_path)
    other = new_video_base(**changes).transformer
    with pytest.raises(UserError, match=sentence):
        load_branches(tmp_path, other)
    if "seed" not in changes:
        with pytest.raises(UserError, match="the camera branches were made for another base"):
            branches.attach(other)
