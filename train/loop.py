"""The training loop. It knows nothing of models: a task computes losses, an engine applies them."""

from __future__ import annotations

import enum
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import UserError
from train.checkpoints import Checkpoint, CheckpointFolder
from train.config import RunConfig
from train.ema import Ema
from train.engine import Engine
from train.guard import Guard
from train.progress import Reporter, Terminal, say
from train.randomness import seed_step
from train.records import MetricsFile, SamplePictures, TensorBoardLog, Window
from train.run_folder import RunFolder
from train.stopping import StopRequest
from train.task import Batches, Task


class Outcome(enum.Enum):
    """How a run ended: at its last step, at its time budget, or on a signal."""

    DONE = "done"
    OUT_OF_TIME = "out of time"
    SIGNALLED = "signalled"


def train_loop(
    task: Task, config: RunConfig, engine: Engine, folder: RunFolder, stop: StopRequest
) -> Outcome:
    """Trains until the last step or a reason to stop, from the newest checkpoint in `folder` if it has any.

    Leaves a checkpoint at its end, and the exported weights unless a signal ended it. Raises UserError
    where `guard.max_bad_steps` steps in a row had to be left out, or a checkpoint can't be written.
    """
    loop = TrainLoop(task, config, engine, folder, stop)
    try:
        return loop.run()
    finally:
        loop.reporter.close()


class TrainLoop:
    """The state of a run: step, place in the data, averages, history."""

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        engine: Engine,
        folder: RunFolder,
        stop: StopRequest,
    ) -> None:
        self.task, self.config, self.engine, self.stop = task, config, engine, stop
        self.folder, self.ranks = folder, engine.ranks
        self.console = Console(quiet=not self.ranks.is_first)
        self.checkpoints = CheckpointFolder(
            folder.checkpoints, self.ranks, config.loop.keep_checkpoints, partial(say, self.console)
        )
        decay = config.loop.ema_decay
        self.ema = None if decay is None else Ema(engine.local_weights(), decay)
        self.guard = Guard(config.guard)
        self.window = Window()
        self.step = 0
        self.position = 0
        self.validation_due = True
        found = self.checkpoints.newest()
        if found is not None:
            self._load(found)
        self.reporter = self._open_reporter(last_step=-1 if found is None else found.step)

    def run(self) -> Outcome:
        loop = self.config.loop
        if self.step:
            self.reporter.say(f"{self.folder.path}: continuing at step {self.step} of {loop.steps}")
        if self.validation_due:
            self.validate()
        if self.step < loop.steps:
            outcome = self._train()
        else:
            outcome = Outcome.DONE
        if outcome is not Outcome.SIGNALLED:
            self.export()
        return outcome

    def _train(self) -> Outcome:
        ranks = self.ranks
        loader = self.task.loader(rank=ranks.rank, world_size=ranks.world_size, start=self.position)
        try:
            return self._steps(loader)
        finally:
            loader.close()

    def _steps(self, loader: Batches) -> Outcome:
        loop = self.config.loop
        batches = iter(loader)
        self.engine.model.train()
        while True:
            reason = self._train_step(batches)
            last = self.step >= loop.steps
            self.reporter.advance(self.step)
            if last or self.step % loop.log_every == 0:
                self._log(sum(self.ranks.gather(len(loader.damaged))))
            self.validation_due = last or self.step % loop.validate_every == 0
            # Who signals may not wait for long, so validation is left to the run that continues.
            if self.validation_due and reason is not Outcome.SIGNALLED:
                self.validate()
            if last or reason is not None or self.step % loop.save_every == 0:
                self.save()
            if last:
                return Outcome.DONE
            if reason is not None:
                return reason

    def _train_step(self, batches: Iterator[dict[str, Tensor]]) -> Outcome | None:
        """One optimizer step; returns why the run should stop after it, if it should."""
        parts = self.config.loop.accumulate
        clock = Clock(self.engine.device)
        totals: dict[str, float] = {}
        num_samples, bad = 0, False
        suspect: dict[str, Tensor] = {}
        for part in range(parts):
            batch = self._to_device(next(batches))
            clock.lap("data")
            generator = seed_step(self.config.seed, self.step, part, self.ranks.rank)
            with self.engine.autocast():
                losses = self.task.losses(self.engine.model, batch, generator)
            values = read_scalars(losses)
            clock.lap("loss")
            self.engine.backward(losses["loss"])
            clock.lap("backward")
            if not bad:
                suspect, bad = batch, self.guard.loss_is_bad(values["loss"])
            totals = {name: totals.get(name, 0.0) + v / parts for name, v in values.items()}
            num_samples += len(next(iter(batch.values())))

        flags = [bad, self.stop.signalled, self.stop.out_of_time]
        skip, signalled, out_of_time = self.ranks.maximum([float(flag) for flag in flags])
        result = self.engine.step(
            lr=self.learning_rate(self.step), norm_limit=self.guard.norm_limit, skip=bool(skip)
        )
        means = dict(zip(totals, self.ranks.mean(list(totals.values())), strict=True))
        if self.ema is not None and result.applied:
            self.ema.update(self.engine.local_weights())
        clock.lap("optimizer")

        self.step += 1
        self.position += parts
        self.guard.record(means["loss"], result.grad_norm, result.applied)
        self.window.add(
            means,
            result.grad_norm,
            result.applied,
            num_samples * self.ranks.world_size,
            clock.seconds | {"step": sum(clock.seconds.values())},
        )
        if not result.applied:
            self._leave_out(suspect, totals, result.grad_norm)
        if signalled:
            return Outcome.SIGNALLED
        return Outcome.OUT_OF_TIME if out_of_time else None

    def learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        config = self.config
        return config.optimizer.lr * config.schedule.factor(step, config.loop.steps)

    def validate(self) -> None:
        """Has the task judge the averaged weights (or the plain ones), and reports it."""
        model = self.engine.model
        model.eval()
        with torch.no_grad(), self._averaged(), self.engine.autocast():
            result = self.task.validate(model)
        model.train()
        self.validation_due = False
        self.reporter.validation(self.step, result)

    def save(self) -> None:
        """Writes a checkpoint of everything that the next step depends on."""
        self.reporter.flush()
        tensors = self.engine.entries()
        if self.ema is not None:
            tensors["ema"] = self.engine.local_entries(self.ema.averages)
        state = {
            "step": self.step,
            "position": self.position,
            "validation_due": self.validation_due,
            "guard": self.guard.state(),
            "window": self.window.state(),
            "ema_updates": 0 if self.ema is None else self.ema.num_updates,
        }
        self.checkpoints.save(self.step, state, tensors)

    def export(self) -> None:
        """Has the task write the averaged weights (or the plain ones) to weights/, all or nothing."""
        target = self.folder.weights
        unfinished = target.with_name(target.name + ".tmp")
        with self._averaged(), self.engine.whole_weights() as module:
            module.eval()
            if self.ranks.is_first:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                self.task.export(module, unfinished)
                shutil.rmtree(target, ignore_errors=True)
                unfinished.rename(target)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Has the model use the averaged weights meanwhile, where there are any."""
        if self.ema is None:
            yield
            return
        with self.ema.swapped_into(self.engine.local_weights()):
            self.engine.weights_changed()
            yield
        self.engine.weights_changed()

    def _load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.engine.load({kind: checkpoint.tensors(kind) for kind in ("model", "optimizer")})
        if self.ema is not None:
            self.engine.load_local(self.ema.averages, checkpoint.tensors("ema"))
            self.ema.num_updates = state["ema_updates"]
        self.guard.load_state(state["guard"])
        self.window = Window(**state["window"])
        self.step, self.position = state["step"], state["position"]
        self.validation_due = state["validation_due"]

    def _log(self, damaged: int) -> None:
        lr = self.learning_rate(self.step - 1)
        self.reporter.train(self.window.record(self.step, lr, self.guard.num_skipped, damaged))
        self.window = Window()

    def _leave_out(self, batch: dict[str, Tensor], losses: dict[str, float], norm: float) -> None:
        """Says so; after too many in a row, leaves this rank's batch behind and ends the run."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        found = f"step {self.step} on rank {self.ranks.rank}: {figures}, gradient norm {norm:.4g}"
        self.reporter.say(f"left out {found} (not finite, or a spike)")
        if not self.guard.gives_up:
            return
        dump = self.folder.path / f"bad_step_{self.step:08d}"
        dump.mkdir(exist_ok=True)
        name = f"rank_{self.ranks.rank}"
        save_file({k: v.cpu().contiguous() for k, v in batch.items()}, dump / f"{name}.safetensors")
        report = {"losses": losses, "grad_norm": norm, "guard": self.guard.state()}
        (dump / f"{name}.json").write_text(json.dumps(report, indent=1))
        raise UserError(
            f"{self.guard.bad_in_a_row} steps in a row were left out, the last being {found}; its"
            f" batch is in {dump}. Continue from the last checkpoint in a new run with a lower"
            " optimizer.lr, or widen guard.loss_spike and guard.norm_spike if these values are right"
        )

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(self.engine.device, non_blocking=True) for k, v in batch.items()}

    def _open_reporter(self, last_step: int) -> Reporter:
        if not self.ranks.is_first:
            return Reporter([])
        return Reporter(
            [
                MetricsFile(self.folder.metrics, last_step),
                TensorBoardLog(self.folder.tensorboard, last_step),
                SamplePictures(self.folder.samples),
                Terminal(self.console, self.step, self.config.loop.steps),
            ]
        )


class Clock:
    """Seconds of the parts of a step; on a GPU each lap waits for its work to be finished."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the lap before to `name`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def read_scalars(losses: dict[str, Tensor]) -> dict[str, float]:
    """The values of scalar tensors, with one wait for the device."""
    values = torch.stack([value.detach().float() for value in losses.values()])
    return dict(zip(losses, values.tolist(), strict=True))
