"""The training loop. It knows nothing of models: a task computes losses, an engine applies them."""

from __future__ import annotations

import enum
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from configs.errors import UserError
from data.durable_files import disk_errors_explained
from train.checkpoints import Checkpoint, CheckpointFolder
from train.config import RunConfig
from train.ema import Ema
from train.engine import Engine
from train.guard import Guard
from train.hang_watch import HangWatch
from train.progress import Reporter, Terminal, say
from train.randomness import seed_step
from train.recomputation import RecomputationCheck
from train.records import RESUME, MetricsFile, SamplePictures, TensorBoardLog, Window
from train.run_folder import RunFolder
from train.step_clock import StepClock
from train.stopping import Interrupted, StopRequest
from train.task import Batches, Task, Validation


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
    limits = config.loop.hang_minutes, config.loop.long_hang_minutes
    with HangWatch(engine.ranks, *limits) as watch:
        loop = TrainLoop(task, config, engine, folder, stop, watch)
        try:
            outcome = loop.run()
        except BaseException:
            with suppress(UserError):  # what ended the run counts, not what closing finds too
                loop.reporter.close()
            raise
        loop.reporter.close()
    return outcome


class TrainLoop:
    """The state of a run: step, place in the data, averages, history."""

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        engine: Engine,
        folder: RunFolder,
        stop: StopRequest,
        watch: HangWatch,
    ) -> None:
        self.task, self.config, self.engine = task, config, engine
        self.stop, self.watch = stop, watch
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
        self.recomputation = RecomputationCheck(())
        found = self.checkpoints.newest()
        if found is not None:
            self._load(found)
        self.reporter = self._open_reporter(last_step=-1 if found is None else found.step)

    def run(self) -> Outcome:
        loop = self.config.loop
        if self.step:
            self.reporter.say(f"{self.folder.path}: continuing at step {self.step} of {loop.steps}")
        outcome = Outcome.DONE
        if self.validation_due and not self.validate():
            self.save()
            outcome = Outcome.SIGNALLED
        elif self.step < loop.steps:
            outcome = self._train()
        if outcome is not Outcome.SIGNALLED:
            with self.watch.long_part(self.step, "export"):
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
        self.recomputation = RecomputationCheck(
            getattr(self.engine.model, "checkpointed_blocks", ())
        )
        found = None
        while True:
            reason = self._train_step(batches)
            if found is None:
                found = self.recomputation.finish() or ""
                if found:
                    self.reporter.say(found)
            last = self.step >= loop.steps
            self.reporter.advance(self.step)
            if last or self.step % loop.log_every == 0:
                self._log(loader)
            self.validation_due = last or self.step % loop.validate_every == 0
            # Who signals may not wait for long, so validation is left to the run that continues.
            if self.validation_due and reason is not Outcome.SIGNALLED and not self.validate():
                reason = Outcome.SIGNALLED
            if last or reason is not None or self.step % loop.save_every == 0:
                self.save()
            if reason is Outcome.SIGNALLED and self.validation_due:
                return reason
            if last:
                return Outcome.DONE
            if reason is not None:
                return reason

    def _train_step(self, batches: Iterator[dict[str, Tensor]]) -> Outcome | None:
        """One optimizer step; returns why the run should stop after it, if it should."""
        parts = self.config.loop.accumulate
        clock = StepClock(self.engine.device, partial(self.watch.at, self.step + 1))
        totals: dict[str, float] = {}
        num_samples, bad = 0, False
        suspect: dict[str, Tensor] = {}
        for part in range(parts):
            with clock.part("data"):
                batch = self._to_device(next(batches))
            with clock.part("loss"):
                generator = seed_step(self.config.seed, self.step, part, self.ranks.rank)
                with self.engine.autocast():
                    losses = self.task.losses(self.engine.model, batch, generator)
                values = read_scalars(losses)
            with clock.part("backward"), self.recomputation.backward():
                self.engine.backward(losses["loss"])
            if not bad:
                suspect, bad = batch, self.guard.loss_is_bad(values["loss"])
            totals = {name: totals.get(name, 0.0) + v / parts for name, v in values.items()}
            num_samples += len(next(iter(batch.values())))

        with clock.part("optimizer"):
            flags = [bad, self.stop.signalled, self.stop.out_of_time]
            skip, signalled, out_of_time = self.ranks.maximum([float(flag) for flag in flags])
            result = self.engine.step(
                lr=self.learning_rate(self.step), norm_limit=self.guard.norm_limit, skip=bool(skip)
            )
            means = dict(zip(totals, self.ranks.mean(list(totals.values())), strict=True))
            if self.ema is not None and result.applied:
                self.ema.update(self.engine.local_weights())

        self.step += 1
        self.position += parts
        self.guard.record(means["loss"], result.grad_norm, result.applied)
        self.window.add(
            means,
            result.grad_norm,
            result.applied,
            num_samples * self.ranks.world_size,
            clock.all_seconds(),
        )
        if not result.applied:
            self._leave_out(suspect, bad, totals, result.grad_norm)
        if signalled:
            return Outcome.SIGNALLED
        return Outcome.OUT_OF_TIME if out_of_time else None

    def learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        config = self.config
        return config.optimizer.lr * config.schedule.factor(step, config.loop.steps)

    def validate(self) -> bool:
        """Has the task judge the averaged weights (or the plain ones), and reports it.

        Returns whether that was finished: a signal to any rank breaks it off, to be done by the run that continues.
        """
        model = self.engine.model
        model.eval()
        result: Validation | None = None
        with (
            self.watch.long_part(self.step, "validation"),
            torch.no_grad(),
            self._averaged(),
            self.engine.autocast(),
        ):
            try:
                # With stage 3 the ranks exchange weights meanwhile, and none may leave the others alone.
                with self.stop.interrupting(self.ranks.world_size == 1 or not self.engine.sharded):
                    result = self.task.validate(model)
            except Interrupted:
                result = None
        model.train()
        if self.ranks.maximum([float(result is None)])[0]:
            return False
        assert result is not None
        self.validation_due = False
        self.reporter.validation(self.step, result)
        return True

    def save(self) -> None:
        """Writes a checkpoint of everything that the next step depends on."""
        self.watch.at(self.step, "checkpoint")
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
                try:
                    unfinished.mkdir()
                    with disk_errors_explained(unfinished, _bytes_of(module), RESUME):
                        self.task.export(module, unfinished)
                    shutil.rmtree(target, ignore_errors=True)
                    unfinished.rename(target)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise

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

    def _log(self, loader: Batches) -> None:
        self.watch.at(self.step, "log")
        damaged = set().union(*self.ranks.gather(list(loader.damaged)))
        loader.check_damage(damaged)
        lr = self.learning_rate(self.step - 1)
        self.reporter.train(self.window.record(self.step, lr, self.guard.num_skipped, len(damaged)))
        self.window = Window()

    def _leave_out(
        self, batch: dict[str, Tensor], bad: bool, losses: dict[str, float], norm: float
    ) -> None:
        """Says so; after too many in a row, leaves every rank's batch behind and ends the run."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        told = self.ranks.gather((bad, figures))
        culprits = [(rank, text) for rank, (is_bad, text) in enumerate(told) if is_bad]
        if culprits:
            rank, text = culprits[0]
            more = f" and {len(culprits) - 1} more ranks" if culprits[1:] else ""
            found = f"step {self.step}, for rank {rank}{more}: {text}, gradient norm {norm:.4g}"
        else:
            found = f"step {self.step}, for the gradient's norm: {norm:.4g} over all ranks"
        self.reporter.say(f"left out {found} (not finite, or a spike)")
        if not self.guard.gives_up:
            return
        dump = self.folder.path / f"bad_step_{self.step:08d}"
        dump.mkdir(exist_ok=True)
        name = f"rank_{self.ranks.rank}"
        save_file({k: v.cpu().contiguous() for k, v in batch.items()}, dump / f"{name}.safetensors")
        report = {"losses": losses, "grad_norm": norm, "guard": self.guard.state()}
        (dump / f"{name}.json").write_text(json.dumps(report, indent=1))
        self.ranks.gather(
            None
        )  # so that none ends, and the others with it, before all have written
        raise UserError(
            f"{self.guard.bad_in_a_row} steps in a row were left out, the last being {found}; every"
            f" rank's batch is in {dump}. Continue from the last checkpoint in a new run with a lower"
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


def _bytes_of(module: nn.Module) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.nbytes for tensor in tensors)


def read_scalars(losses: dict[str, Tensor]) -> dict[str, float]:
    """The values of scalar tensors, with one wait for the device."""
    values = torch.stack([value.detach().float() for value in losses.values()])
    return dict(zip(losses, values.tolist(), strict=True))
