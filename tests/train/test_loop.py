from __future__ import annotations

import errno
import json
import math
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import toy_task
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from toy_run import ToyRun

from configs.errors import UserError
from train.randomness import seed_step

NewToy = Callable[[str], ToyRun]


def assert_same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_a_run_equals_a_training_loop_written_out_by_hand(toy: NewToy) -> None:
    run = toy("a")
    config = run.config("loop.steps=12", "loop.clip_norm=0.05", "optimizer.weight_decay=0.2")
    assert run.start("loop.steps=12", "loop.clip_norm=0.05", "optimizer.weight_decay=0.2") == 0

    task = toy_task.ToyTask(config.task, config.seed)
    model = task.build()
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim == 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    batches = iter(task.loader(rank=0, world_size=1, start=0))
    losses = []
    for step in range(12):
        total = 0.0
        for part in range(2):
            generator = seed_step(0, step, part, 0)
            loss = task.losses(model, next(batches), generator)["loss"] / 2
            loss.backward()
            total += loss.item()
        losses.append(total)
        norm = torch.cat([p.grad.flatten() for p in [*matrices, *vectors]]).norm()
        assert norm > 0.05
        for p in [*matrices, *vectors]:
            p.grad *= 0.05 / (norm + 1e-6)
        factor = (step + 1) / 5 if step < 5 else None
        if factor is None:
            factor = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 5) / 7)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * factor
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.9, (1 + step) / (10 + step))
        for name, p in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * p.detach()

    reported = [record["losses"]["loss"] for record in run.records()]
    expected = [sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert reported == pytest.approx(expected, rel=1e-6)
    final = run.checkpoint(12)
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(final[f"model:{name}"], p.detach())
        torch.testing.assert_close(run.weights()[name], average[name])


def test_a_stopped_and_resumed_run_is_bitwise_the_uninterrupted_one(
    toy: NewToy, finished_toy: ToyRun
) -> None:
    run = toy("stopped")
    # Batch 19 is half of step 10: in the middle of an accumulation and of a window of the log.
    assert run.start("task.signal_at_batch=19") == 75
    assert run.checkpoint_names()[-1] == "step_00000010"
    assert not (run.folder / "weights").exists()
    (run.folder / "config.yaml").write_text((finished_toy.folder / "config.yaml").read_text())
    assert run.start("resume=auto") == 0
    assert run.records() == finished_toy.records()
    assert run.records("validation") == finished_toy.records("validation")
    assert_same_tensors(run.checkpoint(24), finished_toy.checkpoint(24))
    assert_same_tensors(run.weights(), finished_toy.weights())


@pytest.mark.timeout(400)
def test_killed_at_random_moments_it_goes_on_as_if_nothing_had_happened(
    toy: NewToy, finished_toy: ToyRun
) -> None:
    run = toy("killed")
    slow = ["resume=auto", "task.seconds_per_batch=0.004"]
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        before = run.log.stat().st_size if run.log.exists() else 0
        process = run.spawn(*slow)
        deadline = time.monotonic() + 60
        while process.is_alive() and not (run.log.exists() and run.log.stat().st_size > before):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.25 * float(torch.rand((), generator=generator)))
        process.kill()
        process.join()
        assert process.exitcode in {-signal.SIGKILL, 0}
    last = run.spawn(*slow)
    last.join(60)
    assert last.exitcode == 0, run.log.read_text()
    assert run.records() == finished_toy.records()
    assert run.records("validation") == finished_toy.records("validation")
    assert_same_tensors(run.checkpoint(24), finished_toy.checkpoint(24))
    assert "damaged" not in run.log.read_text()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_the_run_with_a_checkpoint_and_the_requeue_code(
    toy: NewToy, name: str
) -> None:
    run = toy("signalled")
    process = run.spawn("task.seconds_per_batch=0.01", "loop.steps=100000")
    while not (run.folder / "metrics.jsonl").exists():
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    time.sleep(0.2)
    os.kill(process.pid, getattr(signal, name))
    process.join(30)
    assert process.exitcode == 75
    assert f"{name} came; continue with resume=auto" in run.log.read_text()
    assert len(run.checkpoint_names()) >= 1


def test_a_signal_breaks_off_a_validation_that_the_next_start_makes(
    toy: NewToy, finished_toy: ToyRun
) -> None:
    run = toy("validating")
    process = run.spawn("task.validation.seconds=60")
    deadline = time.monotonic() + 60
    while not (run.folder / "metrics.jsonl").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 75
    assert run.checkpoint_names() == ["step_00000000"] and run.records("validation") == []
    assert run.start("resume=auto") == 0
    assert run.records() == finished_toy.records()
    assert run.records("validation") == finished_toy.records("validation")


def test_the_time_budget_ends_the_run_with_checkpoint_and_weights(toy: NewToy) -> None:
    run = toy("short")
    assert run.start("loop.max_minutes=1e-9") == 75
    assert run.checkpoint_names() == ["step_00000001"]
    assert (run.folder / "weights" / "model.safetensors").exists()
    assert run.start("resume=auto", "loop.max_minutes=null") == 0


@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_a_bad_step_is_left_out_and_changes_nothing(
    toy: NewToy, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = toy(kind)
    # Step 23 (batches 44, 45) comes after enough history to know a spike; one bad half spoils it.
    assert run.start(f"task.{kind}_batches=[45]", "loop.save_every=1", "loop.ema_decay=null") == 0
    assert "left out step 23, for rank 0: loss" in capsys.readouterr().out
    before, after = run.checkpoint(22), run.checkpoint(23)
    assert_same_tensors(before, after)
    assert run.records()[-1]["skipped"] == 1
    assert all(
        math.isfinite(r["losses"]["loss"]) and r["losses"]["loss"] < 10 for r in run.records()
    )
    moved = run.checkpoint(24)
    assert not torch.equal(moved["model:layers.0.weight"], after["model:layers.0.weight"])


def test_bad_steps_in_a_row_end_the_run_and_leave_the_batch_behind(toy: NewToy) -> None:
    run = toy("bad")
    with pytest.raises(
        UserError, match=r"3 steps in a row were left out, the last being step 10, for rank 0: "
    ):
        run.start("task.nan_batches=[15, 17, 18]", "guard.max_bad_steps=3")
    dumped = load_file(run.folder / "bad_step_00000010" / "rank_0.safetensors")
    expected = toy_task.toy_batch(0, 18, 8)
    assert torch.isnan(dumped["x"][0, 0])
    dumped["x"][0, 0] = expected["x"][0, 0]
    assert torch.equal(dumped["x"], expected["x"])
    assert run.checkpoint_names() == ["step_00000006"]


def test_validation_and_export_use_the_averaged_weights(toy: NewToy) -> None:
    run = toy("ema")
    assert run.start() == 0
    final, exported = run.checkpoint(24), run.weights()
    for name in ("layers.0.weight", "layers.3.bias"):
        assert torch.equal(exported[name], final[f"ema:{name}"])
        assert not torch.equal(exported[name], final[f"model:{name}"])
    assert torch.equal(exported["frozen"], torch.ones(3))
    module = toy_task.ToyTask(run.config().task, 0).build().eval()
    module.load_state_dict(exported)
    with torch.no_grad():
        score = toy_task.ToyTask(run.config().task, 0).validate(module).scalars["mse"]
    assert run.records("validation")[-1]["scalars"]["mse"] == pytest.approx(score, rel=1e-6)


def test_frozen_parameters_are_not_in_checkpoints_but_buffers_are(finished_toy: ToyRun) -> None:
    names = finished_toy.checkpoint(24)
    assert "model:target_scale" in names
    assert not any("frozen" in name for name in names)


def test_bf16_trains_by_autocast_with_fp32_weights(toy: NewToy) -> None:
    run = toy("bf16")
    assert run.start("engine.precision=bf16") == 0
    assert all(v.dtype == torch.float32 for v in run.checkpoint(24).values())
    losses = [r["losses"]["fit"] for r in run.records()]
    exact = toy("fp32")
    assert exact.start() == 0
    reference = [r["losses"]["fit"] for r in exact.records()]
    assert losses != reference and losses == pytest.approx(reference, rel=0.1)


def test_a_finished_run_can_be_trained_further(
    toy: NewToy, capsys: pytest.CaptureFixture[str]
) -> None:
    run = toy("longer")
    assert run.start("loop.steps=12") == 0
    assert run.start("loop.steps=16", "resume=auto") == 0
    assert "loop.steps: 12 -> 16" in capsys.readouterr().out
    assert [record["step"] for record in run.records()] == [4, 8, 12, 16]


def test_no_steps_export_what_the_task_builds(toy: NewToy) -> None:
    run = toy("built")
    assert run.start("loop.steps=0") == 0
    built = toy_task.ToyTask(run.config().task, 0).build().state_dict()
    assert_same_tensors(run.weights(), built)
    assert [record["step"] for record in run.records("validation")] == [0]


def test_every_step_times_its_parts(finished_toy: ToyRun) -> None:
    line = json.loads((finished_toy.folder / "metrics.jsonl").read_text().splitlines()[1])
    seconds: dict[str, Any] = line["seconds"]
    assert set(seconds) == {"data", "loss", "backward", "optimizer", "step"}
    assert seconds["step"] == pytest.approx(sum(v for k, v in seconds.items() if k != "step"))


def test_pictures_and_tensorboard_are_written(finished_toy: ToyRun) -> None:
    with Image.open(finished_toy.folder / "samples" / "step_00000010_flat.png") as image:
        assert image.size == (5, 4) and image.getpixel((0, 0)) == (128, 128, 128)
    events = EventAccumulator(str(finished_toy.folder / "tensorboard"))
    events.Reload()
    written = {event.step: event.value for event in events.Scalars("train/loss")}
    reported = {r["step"]: r["losses"]["loss"] for r in finished_toy.records()}
    assert written == pytest.approx(reported)
    assert [event.step for event in events.Images("flat")] == [0, 10, 20, 24]


def test_full_disk_at_a_save_ends_the_run_with_one_sentence(
    toy: NewToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy("full")
    assert run.start("loop.steps=6") == 0

    def no_space(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("train.tensor_files.sync", no_space)
    with pytest.raises(UserError, match="disk is full"):
        run.start("loop.steps=12", "resume=auto")
    assert run.checkpoint_names() == ["step_00000006"]
