"""The ablation command: variants of one recipe, trained and scored alike, and the table made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.errors import UserError
from configs.loader import load_config
from data.clip_windows import WindowConfig
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_writing import write_shards
from eval.ablate import main
from eval.scores.ablation import VARIANTS, Ablation, AblationConfig
from eval.scores.ablation_report import ablation_markdown, order_sentences, summarise_ablation
from models.autoencoders.latent_shards import write_latents
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.video.base import VideoModelConfig, create_base, save_base

ROOT = Path(__file__).resolve().parents[3]
SCENES = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0, supersampling=1)
RECIPE = """
name: small
task:
  kind: video
  base: {root}/base
  branches: {{control_blocks: 1, lora_rank: 2, encoder_width: 8}}
  autoencoder: {root}/codec
  data: [{root}/shards]
  validation_data: {root}/shards
  windows: {{num_frames: 9}}
  batch_size: 2
  num_workers: 0
  validation: {{num_clips: 0, num_scenes: 0}}
optimizer: {{lr: 1.0e-1}}
schedule: {{warmup_steps: 1}}
loop: {{steps: 100, validate_every: 100, save_every: 100}}
engine: {{threads: 1}}
"""
ABLATION = """
name: ablation
recipe: {root}/recipe.yaml
steps: 2
seeds: [0, 1]
variants:
  no_camera: [task.branches=null, task.train_base=true]
  both: []
scenes: {{num_scenes: 1, travel: [0.5, 0.8]}}
sampling: {{steps: 2}}
runs_root: {root}/runs
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a codec, shards with latents, and the recipes."""
    folder = tmp_path_factory.mktemp("ablation")
    clips = [make_clip(seed, SCENES) for seed in range(2)]
    codec = LinearCodec(LinearCodecConfig(latent_channels=4))
    codec.fit(torch.stack([clip.frames for clip in clips]))
    codec.save_pretrained(folder / "codec")
    write_latents(
        write_shards(clips, folder / "shards"), codec, folder / "codec", WindowConfig(num_frames=9)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = create_base(
            VideoModelConfig(
                latent_channels=4, heads=2, head_width=16, layers=2, time_width=16, text_width=8,
                text_tokens=1, num_frames=9, height=32, width=48, learned_positions=False,
            )
        )  # fmt: skip
        for parameter in base.transformer.parameters():
            nn.init.normal_(parameter, std=0.1)
    save_base(base, folder / "base")
    (folder / "recipe.yaml").write_text(RECIPE.format(root=folder))
    (folder / "ablation.yaml").write_text(ABLATION.format(root=folder))
    return folder


def summary_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "runs" / "ablation" / "summary.json").read_text())


def test_runs_are_trained_scored_and_then_left_alone(root, capsys, monkeypatch) -> None:
    recipe = str(root / "ablation.yaml")
    assert main([recipe, "--commands"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 4
    assert commands[0].startswith(f"./launch.sh train {root}/recipe.yaml loop.steps=2 ")
    assert "name=ablation/no_camera/seed_0" in commands[0] and "resume=auto" in commands[0]

    assert main([recipe]) == 0
    told = capsys.readouterr().out
    assert "no camera" in told and "table.md" in told
    folder = root / "runs" / "ablation"
    for name in ("no_camera", "both"):
        for seed in (0, 1):
            lines = (folder / name / f"seed_{seed}" / "metrics.jsonl").read_text().splitlines()
            assert json.loads(lines[-1])["step"] == 2
    found = summary_of(root)
    assert found["notes"][0].startswith("LPIPS is not available") or len(found["notes"]) == 0
    bare = found["variants"]["no_camera"]["measures"]
    # One video for both paths is as near to either truth, by symmetry.
    assert bare["two_way_choice"] == {"mean": 0.5, "deviation": 0.0}
    assert bare["matched_minus_crossed_db"]["mean"] == 0
    both = found["variants"]["both"]["measures"]
    assert both["matched_minus_crossed_db"]["mean"] != 0
    assert both["psnr"]["deviation"] > 0
    table = (folder / "table.md").read_text()
    assert "| both | " in table and "| 17.22 | 0.052 | 0.095 |" in table

    def refuse(*args: object) -> int:
        raise AssertionError("a finished run was started again")

    monkeypatch.setattr("train.run.run", refuse)
    monkeypatch.setattr(Ablation, "_measure", refuse)
    assert main([recipe]) == 0
    assert summary_of(root)["variants"] == found["variants"]
    assert main([recipe, "--commands"]) == 0
    assert "launch.sh train" not in capsys.readouterr().out.split("numbers:")[1]


def test_a_stopped_run_ends_the_command_with_its_exit_code(root, monkeypatch) -> None:
    monkeypatch.setattr("train.run.run", lambda recipe: 75)
    assert main([str(root / "ablation.yaml"), "name=stopped"]) == 75
    assert not (root / "runs" / "stopped" / "summary.json").exists()


def test_the_default_variants_differ_in_what_they_are_about(root) -> None:
    recipe = root / "recipe.yaml"
    ablation = Ablation(AblationConfig(name="all", recipe=recipe, steps=7, runs_root=root / "runs"))
    tasks = {run.variant: run.recipe.task for run in ablation.runs if run.seed == 0}
    assert list(tasks) == list(VARIANTS) and len(ablation.runs) == 12
    assert tasks["no_camera"].branches is None and tasks["no_camera"].train_base
    for name, branches in (("lora", ("lora",)), ("control", ("control",))):
        assert tasks[name].branches.branches == branches
    assert tasks["both"].branches.branches == ("control", "lora")
    assert {run.recipe.loop.steps for run in ablation.runs} == {7}
    assert {run.recipe.seed for run in ablation.runs} == {0, 1, 2}


def test_variants_that_are_not_equal_are_refused(root) -> None:
    def open_with(*overrides: str) -> Ablation:
        config = load_config(root / "ablation.yaml", overrides, AblationConfig)
        return Ablation(config)

    with pytest.raises(UserError, match="loop.steps must be the same in all variants.*both: 9"):
        open_with("variants={no_camera: [], both: [loop.steps=9]}")
    with pytest.raises(UserError, match="needs a recipe of the video task with a task.base"):
        open_with(f"recipe={ROOT}/configs/tiny/video_base.yaml")
    with pytest.raises(UserError, match="needs a recipe of the video task"):
        open_with(f"recipe={ROOT}/configs/tiny/reconstruction.yaml")
    with pytest.raises(UserError, match=r"seeds \[1, 1\] name one twice"):
        open_with("seeds=[1, 1]")


def test_the_bundled_recipe_is_valid(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("configs/tiny/ablation_video.yaml", [], AblationConfig)
    assert len(Ablation(config).runs) == 12
    assert config.scenes.first_seed > 920_000_064


def score(variant: str, seed: int, share: float, psnr: float) -> dict[str, Any]:
    measures = {
        "motion_share": share, "two_way_choice": 0.8, "matched_minus_crossed_db": share,
        "psnr": psnr, "ssim": 0.5, "lpips": None,
    }  # fmt: skip
    return {"variant": variant, "seed": seed, "measures": measures, "trained_parameters": 2_500_000}


def test_means_spreads_and_orders_are_those_computed_by_hand() -> None:
    scores = [
        *(score("lora", seed, x, 14.0) for seed, x in enumerate([0.1, 0.2, 0.3])),
        *(score("control", seed, x, 15.0) for seed, x in enumerate([0.5, 0.6, 0.7])),
        *(score("both", seed, x, 14.5) for seed, x in enumerate([0.65, 0.7, 0.75])),
        *(score("no_camera", seed, 0.0, 13.0) for seed in range(3)),
    ]
    found = summarise_ablation(scores)
    lora = found["variants"]["lora"]["measures"]
    assert lora["motion_share"]["mean"] == pytest.approx(0.2)
    assert lora["motion_share"]["deviation"] == pytest.approx(0.1)
    assert lora["lpips"] == {"mean": None, "deviation": None}
    order = found["orders"]["motion_share"]
    assert order["order"] == ["both", "control", "lora", "no_camera"]
    assert order["as_paper"] is True
    assert order["clear"] is False  # 0.7 and 0.6 are 0.1 apart, less than 0.05 + 0.1
    assert found["orders"]["psnr"]["as_paper"] is False
    assert found["orders"]["lpips"] is None
    told = order_sentences(found)
    assert "By motion share: both > ControlNet only > LoRA only > no camera" in told[1]
    assert "(as in the paper, and within the spread over seeds)" in told[1]
    report = ablation_markdown(
        {"name": "x", "steps": 5, "scenes": 64, "notes": ["a note"], **found}
    )
    row = "| LoRA only | 0.20 ± 0.10 | 0.80 ± 0.00 | 0.20 ± 0.10 | 14.00 ± 0.00 | 0.500 ± 0.000 |"
    assert f"{row} not available | 2.50 M | 19.02 | 0.102 | 0.157 |" in report


def test_one_seed_has_no_spread_and_nothing_is_clear() -> None:
    found = summarise_ablation([score(n, 0, 0.5, 14.0) for n in ("lora", "control", "both")])
    assert found["variants"]["both"]["measures"]["psnr"] == {"mean": 14.0, "deviation": None}
    assert found["orders"]["motion_share"]["clear"] is None
