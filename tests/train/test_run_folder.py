from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable

import pytest
import torch
from toy_run import ToyRun

from configs.errors import UserError
from train.ranks import Ranks
from train.run_folder import RunFolder

NewToy = Callable[[str], ToyRun]


def begin(run: ToyRun, *overrides: str) -> RunFolder:
    """Makes the folder of a run as its start does."""
    folder = RunFolder(run.config(*overrides))
    with folder.held_by(Ranks()):
        pass
    return folder


def test_an_existing_run_is_refused_and_both_ways_on_are_named(toy: NewToy) -> None:
    run = toy("twice")
    begin(run)
    with pytest.raises(UserError, match=r"twice already holds a run; .*resume=auto.*name="):
        RunFolder(run.config()).check()
    assert RunFolder(run.config("resume=auto")).check() == []


def test_a_folder_of_something_else_is_refused_even_with_resume(toy: NewToy) -> None:
    run = toy("other")
    run.folder.mkdir()
    (run.folder / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder(run.config("resume=auto")).check()


def test_a_change_that_alters_the_result_is_refused_with_its_keys(toy: NewToy) -> None:
    run = toy("changed")
    begin(run)
    with pytest.raises(UserError) as caught:
        RunFolder(run.config("resume=auto", "seed=3", "task.noise=0.5", "loop.steps=99")).check()
    message = str(caught.value)
    assert "seed: 0 -> 3" in message and "task.noise: 0.01 -> 0.5" in message
    assert "loop.steps" not in message


def test_a_change_of_cadence_is_allowed_and_told(toy: NewToy) -> None:
    run = toy("cadence")
    begin(run)
    changed = ["loop.steps=99", "loop.save_every=1", "loop.log_every=2", "engine.threads=1"]
    changed.append("task.validation.num_samples=9")  # the task frees all of its validation
    told = RunFolder(run.config("resume=auto", *changed)).check()
    assert told == [
        "task.validation.num_samples: 4 -> 9",
        "loop.steps: 24 -> 99",
        "loop.log_every: 4 -> 2",
        "loop.save_every: 6 -> 1",
        "engine.threads: null -> 1",
    ]


def test_a_run_in_use_is_refused(toy: NewToy) -> None:
    run = toy("busy")
    folder = RunFolder(run.config())
    with (
        folder.held_by(Ranks()),
        pytest.raises(UserError, match="in use by another training process"),
        RunFolder(run.config("resume=auto")).held_by(Ranks()),
    ):
        pass
    begin(run, "resume=auto")


def test_a_child_that_is_left_behind_does_not_hold_the_folder(toy: NewToy) -> None:
    """As a loader worker does where the run itself is killed."""
    folder = RunFolder(toy("toy").config())
    wait = multiprocessing.get_context("fork").Event()
    with folder.held_by(Ranks()):
        child = multiprocessing.get_context("fork").Process(target=wait.wait, args=(60,))
        child.start()
    try:
        with RunFolder(toy("toy").config("resume=auto")).held_by(Ranks()):
            assert child.is_alive()
    finally:
        wait.set()
        child.join()


def test_an_unreadable_config_is_refused(toy: NewToy) -> None:
    run = toy("broken")
    begin(run)
    (run.folder / "config.yaml").write_text("{[")
    with pytest.raises(UserError, match=r"config\.yaml can't be read"):
        RunFolder(run.config("resume=auto")).check()


def test_a_root_that_cannot_be_written_is_a_sentence(toy: NewToy) -> None:
    run = toy("nowhere")
    (run.root / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        begin(run, f"runs_root={run.root / 'file'}")


def test_every_start_is_noted_with_versions_and_code(toy: NewToy) -> None:
    run = toy("noted")
    begin(run)
    begin(run, "resume=auto")
    starts = json.loads((run.folder / "environment.json").read_text())
    assert len(starts) == 2
    assert starts[0]["packages"]["torch"] == torch.__version__
    assert starts[1]["machine"]["cores"] >= 1


def test_the_resolved_config_reads_back_as_the_same(toy: NewToy) -> None:
    from toy_task import ToyRecipe

    from configs.loader import load_config

    run = toy("resolved")
    begin(run, "task.nan_batches=[3]")
    saved = load_config(run.folder / "config.yaml", [], ToyRecipe)
    assert saved == run.config("task.nan_batches=[3]")
