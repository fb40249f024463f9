"""The training benchmarks' arithmetic, and that their tables come out; how long things take is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from configs.errors import UserError
from eval import benchmark
from eval.benchmarks import child_runs, scaling, second_process, stand_in, train_step, training_run
from eval.benchmarks.scaling import ALONE, ALONE_DEEPSPEED, APART, TOGETHER, Measured
from models.bundled_weights import TINY_VIDEO_BASE
from train.engine import EngineConfig, PlainEngine, StepRule
from train.optimizer import OptimizerConfig
from train.ranks import Ranks
from train.task import Task

TINY = Path(__file__).resolve().parents[3] / "configs" / "tiny"


def test_shares_of_the_peak_are_flops_over_seconds_over_the_peak_beside_the_step():
    parts = [
        {"model forward": 1.0, "render forward": 1.0, "model backward": 3.0, "optimiser": 5.0},
        {"model forward": 2.0, "render forward": 2.0, "model backward": 6.0, "optimiser": 10.0},
    ]
    found = train_step.summarise(parts, [100e9, 50e9], int(100e9), batch_size=3)
    # The second step took twice as long on a machine that was half as fast: the same shares.
    assert found["model_share_of_peak"] == 0.25
    assert found["step_share_of_peak"] == 0.1
    assert found["step_seconds"] == 15.0 and found["samples_per_second"] == 0.2
    assert found["model_gflop_per_step"] == 100.0 and found["peak_gflops"] == 75.0
    assert [row["share"] for row in found["rows"]] == [0.1, 0.1, 0.3, 0.5]


@pytest.mark.slow
def test_other_work_of_real_processes_is_counted():
    found = second_process.second_process(seconds=0.05, rounds=1)
    assert set(found) == set(second_process.WORK) and all(times > 0 for times in found.values())


def test_other_work_of_two_processes_is_a_multiple_of_what_one_does(monkeypatch):
    """The median over rounds on a machine whose speed changes between them."""
    rates = iter([2.0, 2.0, 30.0, 10.0, 6.0, 4.0] * 2)
    monkeypatch.setattr(second_process, "_rate", lambda *_: next(rates))
    found = second_process.second_process(rounds=3)
    assert found == dict.fromkeys(second_process.WORK, 1.5)


def test_waiting_and_saving_are_shares_of_the_time_that_training_takes():
    steps = [{"data": 0.0, "step": 2.0}, {"data": 0.5, "step": 2.0}, {"data": 0.0, "step": 1.0}]
    found = training_run.summarise(steps, save_seconds=4.0, save_bytes=3_000_000, save_every=98)
    assert found["waiting_for_data"] == 0.1
    assert found["saving"] == 0.02  # 4 s after 98 steps of 2 s
    assert found["save_megabytes"] == 3.0 and found["save_every"] == 98


def test_steps_of_the_warm_up_do_not_count(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    last = training_run.WARM_UP_STEPS + 2
    records = [{"kind": "validation", "step": 0, "scalars": {}}]
    records += [
        {"kind": "train", "step": n, "seconds": {"step": n / 2}} for n in range(1, last + 1)
    ]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert training_run.step_seconds(metrics) == [{"step": (last - 1) / 2}, {"step": last / 2}]
    with SummaryWriter(str(tmp_path)) as log:
        for n in range(1, last + 1):
            log.add_scalar("run/lr", 0.1, n, walltime=1000.5 + n)
    assert scaling.step_ends(tmp_path) == [1000.5 + n for n in range(last - 2, last + 1)]


def test_the_common_rate_counts_what_lies_in_the_common_window():
    assert scaling.common_rate([[10.0, 12.0, 14.0, 16.0]]) == 0.5
    # From 11 to 16: two and a half steps of the first run, five of the second.
    assert scaling.common_rate([[10.0, 12.0, 14.0, 16.0], [11.0 + n for n in range(9)]]) == 1.5
    with pytest.raises(UserError, match="never trained at the same time"):
        scaling.common_rate([[1.0, 2.0], [2.0, 3.0]])


def test_ratios_are_taken_within_a_round():
    """Three rounds on a machine whose speed halves and halves again."""
    rounds = [
        {
            ALONE: Measured(10.0 * speed, 0.0),
            APART: Measured(16.0 * speed, 0.1),
            ALONE_DEEPSPEED: Measured(8.0 * speed, 0.2),
            TOGETHER: Measured(12.0 * speed, 0.3),
        }
        for speed in (1.0, 0.5, 0.25)
    ]
    found = scaling.compare(rounds)
    assert [row["times_one"] for row in found["rows"]] == [1.0, 1.6, 0.8, 1.2]
    assert [row["times_one_of_its_engine"] for row in found["rows"]] == [1.0, 1.6, 1.0, 1.5]
    assert [row["samples_per_second"] for row in found["rows"]] == [5.0, 8.0, 4.0, 6.0]
    assert [row["waiting_for_data"] for row in found["rows"]] == [0.0, 0.1, 0.2, 0.3]
    assert found["together_over_apart"] == 0.75


class Attention(torch.nn.Module):
    """One projection and attention of 2 heads of 16 over 12 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(32, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.project(x).unflatten(-1, (2, 16)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


class AttentionTask(Task):
    def losses(self, model, batch, generator):
        return {"loss": model(batch["x"]).square().mean()}


def test_flops_count_the_attention_of_the_cpu():
    engine = PlainEngine(Attention(), OptimizerConfig(), EngineConfig(), StepRule(), Ranks())
    flops = train_step.count_flops(AttentionTask(), engine, {"x": torch.rand(3, 12, 32)}, seed=0)
    projection = 2 * 3 * 12 * 32 * 32
    attention = 2 * (2 * 3 * 2 * 12 * 12 * 16)
    # Backward: the projection's weight alone; attention's five products, of which one is computed again.
    assert flops == 2 * projection + attention + 5 * attention // 2


@pytest.fixture
def no_clips(monkeypatch, tmp_path) -> None:
    """Nothing is written, and no path of a recipe leads anywhere."""
    monkeypatch.setattr(stand_in, "_write_clips", lambda *_: None)
    monkeypatch.chdir(tmp_path)


def test_what_a_recipe_goes_on_from_is_stood_in_for_and_said(no_clips, tmp_path):
    made = stand_in.stand_in(TINY / "video_finetune.yaml", tmp_path, threads=1)
    config = made.load()
    assert config.task.base == TINY_VIDEO_BASE and config.task.branches_from is None
    assert config.task.branches is not None and config.task.train_base
    assert made.notes == (
        "the bundled video base, as runs/tiny_video_base/weights/base is not there",
        "new branches, as runs/tiny_video_camera/weights/branches is not there",
    )
    assert made.save_every == 250 and config.loop.save_every == stand_in.NEVER
    assert config.task.validation.num_scenes == 0


def test_every_folder_of_clips_is_the_one_that_is_made(no_clips, tmp_path):
    made = stand_in.stand_in(TINY / "reconstruction_stage2.yaml", tmp_path, threads=1)
    task = made.load("task.num_workers=2").task
    assert task.data == [tmp_path / "shards"] * 2 and task.data_weights == [3.0, 1.0]
    assert task.num_workers == 2 and task.batch_size == 8
    assert len(made.notes) == 1 and made.notes[0].startswith("new weights, as ")


MODELS = {
    "reconstruction": "  kind: reconstruction\n  autoencoder: {autoencoder}\n"
    "  model: {{latent_channels: 8, width: 16, depth: 1, heads: 2}}\n",
    "autoencoder": "  kind: autoencoder\n  num_frames: 9\n  model: {{kind: linear}}\n",
    "video": "  kind: video\n  autoencoder: {autoencoder}\n  train_base: true\n"
    "  windows: {{num_frames: 9, strides: [1, 2]}}\n"
    "  new_base: {{latent_channels: 8, heads: 2, head_width: 16, layers: 1, time_width: 16, text_width: 8,"
    " text_tokens: 1, num_frames: 9, height: 64, width: 96, learned_positions: false}}\n",
}


@pytest.fixture
def few_clips(monkeypatch) -> None:
    monkeypatch.setattr(stand_in, "NUM_CLIPS", 4)


def write_recipe(folder: Path, kind: str, weights: dict[str, Path]) -> Path:
    recipe = folder / f"{kind}.yaml"
    recipe.write_text(
        "name: b\nloop: {steps: 1, save_every: 40, ema_decay: 0.9}\ntask:\n"
        + MODELS[kind].format(**weights)
        + "  data: [unused, unused_too]\n  validation_data: unused\n  batch_size: 2\n"
    )
    return recipe


@pytest.mark.slow
def test_train_reports_every_task(few_clips, tmp_path, weights, capsys):
    recipes = [str(write_recipe(tmp_path, kind, weights)) for kind in MODELS]
    out = tmp_path / "numbers.json"
    words = ["train", "--rounds", "0", "--json", str(out), "--recipe", *recipes]
    assert benchmark.main(words) == 0
    *steps, summary = json.loads(out.read_text())["results"]
    assert [step["recipe"] for step in steps] == recipes
    for step in steps:
        parts = [row["part"] for row in step["rows"]]
        assert {"model forward", "model backward", "optimiser"} <= set(parts)
        assert ("render forward" in parts) == ("reconstruction" in step["recipe"])
        seconds = sum(row["seconds"] for row in step["rows"])
        assert seconds == pytest.approx(step["step_seconds"], abs=1e-3)
        assert 0 < step["step_share_of_peak"] <= step["model_share_of_peak"] < 1
        assert 0 <= step["waiting_for_data"] < 1 and 0 < step["saving"] < 1
        assert step["save_megabytes"] > 0 and step["save_every"] == 40
    assert [row["recipe"] for row in summary["rows"]] == list(MODELS)
    assert "step share" in capsys.readouterr().out


@pytest.mark.slow
def test_loader_reports_each_number_of_workers(few_clips, tmp_path, weights):
    recipe = write_recipe(tmp_path, "reconstruction", weights)
    out = tmp_path / "numbers.json"
    assert benchmark.main(["loader", "--recipe", str(recipe), "--json", str(out)]) == 0
    (loader,) = json.loads(out.read_text())["results"]
    assert [row["workers"] for row in loader["rows"]] == [0, 1, 2]
    assert loader["step_consumes_samples_per_second"] > 0


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_weak_scaling_trains_every_setup(few_clips, tmp_path, weights):
    made = stand_in.stand_in(write_recipe(tmp_path, "video", weights), tmp_path, threads=1)
    found = scaling.weak_scaling(made, tmp_path, rounds=1)
    assert [row["setup"] for row in found["rows"]] == [setup.name for setup in scaling.SETUPS]
    assert all(row["samples_per_second"] > 0 for row in found["rows"])
    assert found["rows"][0]["times_one"] == 1.0
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == [f"scaling_0_{name}" for name in ("0_0", "1_0", "1_1", "2_0", "3_0")]
    log = (tmp_path / "runs" / "scaling_0_3_0" / "config.yaml").read_text()
    assert "batch_size: 4" in log and "kind: deepspeed" in log


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_fails_ends_the_others_and_says_why(tmp_path):
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("name: [wrong")
    with pytest.raises(UserError, match=r"wrong\.yaml"):
        child_runs.train_at_once([recipe], ranks=2)
