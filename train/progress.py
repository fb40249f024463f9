"""What a person sees while a run goes on: a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from train.records import Sink, TrainRecord
from train.task import Validation


class Terminal:
    """Shows records on standard output; a sink like the files, with messages of its own.

    step: where the run starts or goes on. steps: where it ends.
    """

    def __init__(self, console: Console, step: int, steps: int) -> None:
        self.console = console
        self.steps = steps
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                BarColumn(),
                TaskProgressColumn("{task.completed}/{task.total}"),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=console,
            )
            self.item = self.bar.add_task("", total=steps, completed=step)
            self.bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar, between records."""
        if self.bar is not None:
            self.bar.update(self.item, completed=step)

    def train(self, record: TrainRecord) -> None:
        losses = "  ".join(f"{name} {value:.4g}" for name, value in record.losses.items())
        text = f"{losses}  {record.samples_per_second:.3g} samples/s"
        if self.bar is not None:
            self.bar.update(self.item, completed=record.step, description=text)
            return
        left = record.seconds["step"] * (self.steps - record.step)
        self.say(f"step {record.step}/{self.steps}  {text}  {timedelta(seconds=round(left))} left")

    def validation(self, step: int, result: Validation) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in result.scalars.items())
        self.say(f"validation at step {step}  {figures}")

    def say(self, message: str) -> None:
        say(self.console, message)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def say(console: Console, message: str) -> None:
    """Prints a message as it is, above a progress bar if one is shown."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)


class Reporter:
    """Hands everything to several sinks; on ranks but the first there are none."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = list(sinks)

    def train(self, record: TrainRecord) -> None:
        for sink in self.sinks:
            sink.train(record)

    def validation(self, step: int, result: Validation) -> None:
        for sink in self.sinks:
            sink.validation(step, result)

    def advance(self, step: int) -> None:
        for sink in self.sinks:
            if isinstance(sink, Terminal):
                sink.advance(step)

    def say(self, message: str) -> None:
        for sink in self.sinks:
            if isinstance(sink, Terminal):
                sink.say(message)

    def flush(self) -> None:
        for sink in self.sinks:
            sink.flush()

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
