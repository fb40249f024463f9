from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.records import MetricsFile, TrainRecord, Window
from train.task import Validation


def record(step: int) -> TrainRecord:
    return TrainRecord(step, {"loss": 0.5}, 1e-3, None, 0, 0, 10.0, {"step": 0.1})


def test_a_reopened_file_has_no_step_twice_and_no_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in (10, 20, 30):
        first.train(record(step))
    first.validation(20, Validation({"psnr": 3.0}))
    first.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "st')
    second = MetricsFile(path, 20)
    second.train(record(30))
    second.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 10),
        ("train", 20),
        ("validation", 20),
        ("train", 30),
    ]


def test_values_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m", -1)
    file.validation(3, Validation({"psnr": float("inf"), "ssim": 1.0}))
    file.close()
    line = json.loads((tmp_path / "m").read_text(), parse_constant=pytest.fail)
    assert line["scalars"] == {"psnr": None, "ssim": 1.0}


def test_a_window_counts_losses_of_applied_steps_only() -> None:
    window = Window()
    window.add({"loss": 1.0}, 3.0, True, 8, {"step": 0.5, "data": 0.1})
    window.add({"loss": float("nan")}, float("nan"), False, 8, {"step": 0.5, "data": 0.1})
    window.add({"loss": 2.0}, 5.0, True, 8, {"step": 1.0, "data": 0.4})
    window = Window(**json.loads(json.dumps(window.state())))
    made = window.record(step=3, lr=0.1, skipped=1, damaged=0)
    assert made.losses == {"loss": 1.5} and made.grad_norm == 4.0
    assert made.samples_per_second == pytest.approx(12.0)
    assert made.seconds == pytest.approx({"step": 2 / 3, "data": 0.2})


def test_a_window_of_left_out_steps_has_no_losses() -> None:
    window = Window()
    window.add({"loss": float("nan")}, float("inf"), False, 8, {"step": 0.5})
    made = window.record(step=1, lr=0.1, skipped=1, damaged=0)
    assert made.losses == {} and made.grad_norm is None
