from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_run import ToyRun

from configs.errors import run_command
from train.run import main

NewToy = Callable[[str], ToyRun]


def test_help_says_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "resume=auto" in text and "75 stopped early" in text and "example:" in text


def test_mistakes_in_a_recipe_are_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("name: x\nloop: {steps: -1, saev_every: 3}\n")
    with pytest.raises(SystemExit) as ended:
        run_command(main, [str(recipe)])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "loop.steps" in message and "loop.save_every" in message and "task" in message


def test_an_existing_run_is_exit_code_2_and_stays_as_it_is(
    toy: NewToy, finished_toy: ToyRun
) -> None:
    before = (finished_toy.folder / "metrics.jsonl").read_bytes()
    process = finished_toy.spawn()
    process.join(60)
    assert process.exitcode == 2
    assert "error: " in finished_toy.log.read_text()
    assert (finished_toy.folder / "metrics.jsonl").read_bytes() == before
