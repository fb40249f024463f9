"""The `plan` command: tables, JSON, and mistakes in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from train.plan import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("task.new_base.layers=1", "task.new_base.heads=1", "task.batch_size=2")


@pytest.fixture(autouse=True)
def _from_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_plan_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "plan.json"
    code = main(["configs/tiny/video_base.yaml", "--gpus", "2", "--json", str(target), *SMALL])
    assert code == 0
    printed = capsys.readouterr().out
    assert "tiny_video_base on 1 node of 2 GPUs" in printed
    assert f"numbers: {target}" in printed
    numbers = json.loads(target.read_text())
    assert numbers["cluster"]["gpus"] == 2 and numbers["fits"] is True


def test_what_does_not_fit_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs/tiny/video_base.yaml", "--gpu-memory", "0.01", *SMALL]) == 0
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["configs/tiny/video_base.yaml", "--nodes", "0"], "--nodes is 0; expected more than 0"),
        (["configs/tiny/video_base.yaml", "--gpu-memory", "-1"], "--gpu-memory is -1.0;"),
        (["configs/tiny/video_base.yaml", "--reserve", "1"], "--reserve is 1.0; expected a share"),
        (["configs/tiny/video_base.yaml", "--utilisation", "0"], "--utilisation is 0.0;"),
        (["configs/tiny/video_base.yaml", "--gpus", "3"], "does not divide among 3 GPUs"),
        (["configs/tiny/video_base.yaml", "task.batch=2"], "task.batch"),
        (["configs/tiny/nothing.yaml"], "cannot read the recipe"),
        (["configs/tiny/ablation_video.yaml"], "mistakes in the configuration"),
        (["configs/full/video_camera.yaml", "task.base=weights/other"], "weights/other"),
    ],
)
def test_mistakes_are_told(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        main(arguments)
    assert sentence in str(error.value)


def test_a_mistake_is_one_message_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "train.plan", "configs/tiny/video_base.yaml", "--nodes", "0"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 2
    assert process.stderr == "error: --nodes is 0; expected more than 0\n"
