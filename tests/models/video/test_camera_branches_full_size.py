"""Camera branches at the size of CogVideoX-5B: counted, and stepped through without memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.cameras import Cameras
from models.video.base import VideoModelConfig, create_base
from models.video.camera_branches import CameraBranches, CameraBranchesConfig
from models.video.model import VideoModel

FULL_BASE, FULL = VideoModelConfig(), CameraBranchesConfig()


def full_width_model(layers: int, control_blocks: int) -> VideoModel:
    """A model of the full width on the meta device."""
    with torch.device("meta"):
        base = create_base(FULL_BASE.model_copy(update={"layers": layers}))
        config = FULL.model_copy(update={"control_blocks": control_blocks})
        branches = CameraBranches(config, base.transformer)
        return VideoModel(base, branches, train_base=False, gradient_checkpointing=True)


def fake_step(model: VideoModel) -> None:
    """Forward and backward of one clip of 49 frames of 480x720, without memory or arithmetic."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (*model.base.transformer.modules(), *model.modules()):
            for name, value in module._parameters.items():
                if value is not None:
                    fake = torch.empty_like(value, device="cpu")
                    module._parameters[name] = nn.Parameter(fake, value.requires_grad)
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = torch.empty_like(value, device="cpu")
        cameras = Cameras(torch.empty(1, 49, 4, 4), torch.empty(1, 49, 3, 3), 480, 720)
        noisy, image = torch.empty(1, 16, 13, 60, 90), torch.empty(1, 16, 1, 60, 90)
        predicted = model(noisy, image, torch.zeros(1, dtype=torch.long), cameras=cameras)
        assert predicted.shape == noisy.shape
        predicted.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    trained = {id(p) for p in model.parameters()}
    assert all(p.grad is None for p in model.base.transformer.parameters() if id(p) not in trained)


def test_full_size_parameter_counts() -> None:
    model = full_width_model(layers=42, control_blocks=21)
    branches = model.branches
    assert branches is not None and branches.control and branches.fusion and branches.lora
    d, time, rank = 3072, 512, 256
    block = 12 * d * d + 9 * d + 2 * 128 + 2 * (6 * d * (time + 1) + 2 * d)
    encoder = sum(p.numel() for p in branches.control.encoder.parameters())
    assert encoder == (6 * 64 + 1) * 128 + 2 * (27 * 128 + 1) * 128 + (4 * 128 + 1) * d + 2 * d
    counts = [
        sum(p.numel() for p in part.parameters())
        for part in (branches.control, branches.fusion, branches.lora, model)
    ]
    assert counts[0] == encoder + 21 * (block + d * d + d) + d * d + d == 2_986_352_256
    assert counts[1] == encoder + 2 * d * d + d == 21_393_792
    assert counts[2] == 42 * 4 * 2 * d * rank == 264_241_152
    assert counts[3] == sum(counts[:3]) == 3_271_987_200
    base = sum(p.numel() for p in model.base.transformer.parameters()) - counts[2]
    assert base == 5_570_479_680


def test_full_width_step_under_fake_tensors() -> None:
    fake_step(full_width_model(layers=3, control_blocks=2))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size_step_under_fake_tensors() -> None:
    fake_step(full_width_model(layers=42, control_blocks=21))
