"""Scenes that nothing can be made of are refused in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.errors import UserError
from models.gaussians import Gaussians
from models.scenes.check import check_scene


def test_scenes_that_nothing_can_be_made_of_are_refused_in_words():
    generator = torch.Generator().manual_seed(0)
    good = Gaussians(
        means=torch.randn(200, 3, generator=generator),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(200, 1),
        scales=torch.full((200, 3), 0.05),
        opacities=torch.full((200,), 0.9),
        colors=torch.rand(200, 3, generator=generator),
    )
    check_scene(good, "a.ply")
    wrong = {
        "holds no Gaussians": good.select(torch.zeros(200, dtype=torch.bool)),
        "opacities hold NaN": replace(good, opacities=good.opacities * torch.nan),
        "means hold NaN or infinite": replace(good, means=good.means / 0),
        "may have exploded": replace(good, scales=good.scales * 100),
        "is transparent": replace(good, opacities=good.opacities * 1e-4),
    }
    for words, scene in wrong.items():
        with pytest.raises(UserError, match=rf"a\.ply: .*{words}"):
            check_scene(scene, "a.ply")
