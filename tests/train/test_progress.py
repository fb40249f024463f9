from __future__ import annotations

import io

from rich.console import Console

from train.progress import Reporter, Terminal
from train.records import TrainRecord
from train.task import Validation

RECORD = TrainRecord(20, {"loss": 0.25, "mse": 0.125}, 1e-3, 1.0, 0, 0, 32.0, {"step": 0.5})


def test_without_a_terminal_each_record_is_one_plain_line() -> None:
    output = io.StringIO()
    terminal = Terminal(Console(file=output, width=40), step=10, steps=100)
    reporter = Reporter([terminal])
    reporter.advance(15)
    reporter.train(RECORD)
    reporter.validation(20, Validation({"psnr": 21.456}))
    reporter.say("[bold] stays as it is")
    reporter.close()
    assert output.getvalue().splitlines() == [
        "step 20/100  loss 0.25  mse 0.125  32 samples/s  0:00:40 left",
        "validation at step 20  psnr 21.46",
        "[bold] stays as it is",
    ]


def test_on_a_terminal_there_is_a_bar_with_the_losses() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    terminal = Terminal(console, step=10, steps=100)
    terminal.advance(20)
    terminal.train(RECORD)
    terminal.close()
    shown = output.getvalue()
    assert "20/100" in shown and "loss 0.25" in shown and "32 samples/s" in shown
