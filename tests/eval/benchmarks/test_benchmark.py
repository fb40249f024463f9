"""Benchmarks count what they say they count; how long things take is not tested."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from eval import benchmark
from eval.benchmarks import machine_peak
from eval.benchmarks import rasteriser as benchmark_rasteriser
from eval.benchmarks import train_step as benchmark_train
from models.gaussians import Gaussians


def test_median_seconds_calls_once_more_than_it_counts():
    calls = []
    assert machine_peak.median_seconds(lambda: calls.append(1), 4) >= 0
    assert len(calls) == 5


def test_blends_are_the_pixels_that_a_gaussian_touches():
    """One round Gaussian of opacity o and pixel variance s touches pixels nearer than sqrt(2 s ln(255 o))."""
    camera = Cameras.from_camera_to_world(
        torch.eye(4)[None], intrinsics_from_fov(50.0, 32, 48)[None], 32, 48
    )
    focal = float(camera.intrinsics[0, 0, 0])
    one = Gaussians(
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), 3.0 * 2 / focal),
        opacities=torch.tensor([0.5]),
        colors=torch.ones(1, 3),
    )
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    squared = (rows - 16) ** 2 + (columns - 24) ** 2
    inside = squared <= 2 * (9 + 0.3) * torch.log(torch.tensor(255 * 0.5))
    assert benchmark_rasteriser.count_blends(one, camera) == int(inside.sum())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["speed"], "unknown benchmark 'speed'"),
        (["train", "--rounds", "-1"], "--rounds must be at least 0"),
        (["train", "--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_a_wrong_command_ends_with_2(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_recipe_is_told_before_anything_is_measured(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml"):
        benchmark.main(
            ["train", "--recipe", str(benchmark.RECIPES[0]), str(tmp_path / "gone.yaml")]
        )


def test_rasteriser_rows_have_ratios_to_the_reference_and_the_peak(capsys):
    case = benchmark_rasteriser.Case(50, 2, 16, 24, compared=True)
    result = benchmark_rasteriser.benchmark_rasteriser((1,), repeats=1, cases=(case,))
    row = result["rows"][0]
    assert row["case"] == "50 Gaussians, 2 x 16x24" and row["threads"] == 1
    assert row["forward_times_reference"] > 0 and 0 < row["forward_share_of_peak"] < 1
    benchmark.print_result(result)
    assert "50 Gaussians" in capsys.readouterr().out


def test_render_backward_is_told_from_the_rest_of_the_backward_pass():
    parts = benchmark_train.StepParts()
    leaf = torch.ones(3, requires_grad=True)
    gaussians = Gaussians(
        means=2 * leaf[None],
        quats=torch.cat([leaf, leaf[:1]])[None],
        scales=2 * leaf[None],
        opacities=leaf[:1] / 2,
        colors=2 * leaf[None],
    )
    frames = sum(t.sum() for t in gaussians.tensors().values()) * torch.ones(1)
    parts.watch_backward(gaussians, frames)
    frames.sum().backward()
    assert list(parts.seconds) == ["render backward"] and parts.seconds["render backward"] > 0
