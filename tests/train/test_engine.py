from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from configs.errors import UserError
from train.engine import EngineConfig, PlainEngine, StepRule
from train.engine_choice import create_engine
from train.optimizer import OptimizerConfig, create_optimizer
from train.ranks import Ranks


def new_engine(width: int = 3, parts: int = 1) -> PlainEngine:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, width), nn.LayerNorm(width), nn.Linear(width, 1))
    rule = StepRule(parts, clip_norm=1.0)
    return PlainEngine(module, OptimizerConfig(lr=0.1), EngineConfig(), rule, Ranks())


def take_step(engine: PlainEngine, **changes: object) -> tuple[float, bool]:
    x = torch.linspace(-1, 1, 8).reshape(4, 2)
    engine.backward(engine.model(x).square().mean())
    settings = {"lr": 0.1, "norm_limit": float("inf"), "skip": False}
    result = engine.step(**(settings | changes))
    return result.grad_norm, result.applied


def test_weights_of_one_axis_do_not_decay() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = create_optimizer(module, OptimizerConfig(weight_decay=0.3))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(module[0].weight)] == 0.3
    assert {decays[id(p)] for p in (module[0].bias, module[1].weight, module[1].bias)} == {0.0}


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to train"):
        create_optimizer(nn.ReLU(), OptimizerConfig())


def test_parts_of_a_step_add_up_to_the_whole_batch() -> None:
    whole, parts = new_engine(), new_engine(parts=2)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    whole.backward(whole.model(x).square().mean())
    for part in range(2):
        parts.backward(parts.model(x[4 * part :][:4]).square().mean())
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("why", [{"skip": True}, {"norm_limit": 1e-6}])
def test_a_left_out_step_leaves_weights_and_optimizer_alone(why: dict[str, object]) -> None:
    engine = new_engine()
    take_step(engine)
    before = {
        entry.name: entry.fetch().clone() for part in engine.entries().values() for entry in part
    }
    norm, applied = take_step(engine, **why)
    assert not applied and norm > 1e-6
    after = {entry.name: entry.fetch() for part in engine.entries().values() for entry in part}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert take_step(engine)[1], "gradients of the left-out step are gone"


def test_the_state_goes_into_a_new_engine_bit_for_bit() -> None:
    first, second = new_engine(), new_engine()
    for _ in range(3):
        take_step(first)
    second.load(
        {kind: {e.name: e.fetch().clone() for e in part} for kind, part in first.entries().items()}
    )
    take_step(first)
    take_step(second)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_shape_is_refused_and_named() -> None:
    state = {
        kind: {e.name: e.fetch() for e in part} for kind, part in new_engine(5).entries().items()
    }
    with pytest.raises(UserError, match=r"0\.weight is \[5, 2\] in the checkpoint, but \[3, 2\]"):
        new_engine(3).load(state)
    state["model"].pop("2.bias")
    with pytest.raises(UserError, match=r"2\.bias is not in the checkpoint"):
        new_engine(5).load(state)


def test_plain_refuses_several_processes() -> None:
    with pytest.raises(UserError, match=r"engine\.kind=plain trains in one process, but 2"):
        create_engine(
            nn.Linear(1, 1), OptimizerConfig(), EngineConfig(kind="plain"), StepRule(), Ranks(0, 2)
        )


def test_cuda_is_refused_where_there_is_none() -> None:
    from train.ranks import joined_ranks

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"engine\.device=cuda"), joined_ranks("cuda"):
        pass


def test_one_thread_stays_one_when_our_kernels_have_run() -> None:
    """In a process of its own: which of two OpenMP users starts first decides what a set number comes to."""
    script = """
import torch
from train.engine import set_threads
torch.get_num_threads()  # starts PyTorch's own
set_threads(1)
import train.tasks.registry
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.render import render
eye, points = torch.eye(4)[None], torch.tensor([[0.0, 0, 2], [0.1, 0, 3]])
cameras = Cameras(eye, torch.tensor([[[9.0, 0, 8], [0, 9, 8], [0, 0, 1]]]), 16, 16)
turns, ones = eye[0, :1].expand(2, 4), torch.ones(2, 3)
scene = Gaussians(points.requires_grad_(), turns, 0.1 * ones, 0.5 * ones[:, 0], ones)
render(scene, cameras).frames.sum().backward()
print(torch.get_num_threads())
"""
    several = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    told = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | several, capture_output=True, text=True
    )
    assert told.stdout == "1\n", told.stderr
