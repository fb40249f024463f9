"""The set-up with a pip of the test's own: what is installed, in which order, and what a failure leaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from configs import environment
from configs.environment import ensure_environment, is_ready
from configs.errors import UserError


@pytest.fixture
def calls(monkeypatch):
    """Replaces the steps' processes: `calls.run` decides each result; the commands are recorded."""

    class Calls(list[list[str]]):
        def run(self, command: list[str], stdout) -> int:
            return 0

    calls = Calls()

    def run(command, *, stdout, stderr, check):
        calls.append(list(command))
        if command[1:3] == ["-m", "venv"]:
            python = Path(command[3]) / "bin" / "python"
            python.parent.mkdir()
            python.symlink_to(sys.executable)
        return subprocess.CompletedProcess(command, calls.run(command, stdout))

    monkeypatch.setattr(environment.subprocess, "run", run)
    return calls


def test_torch_comes_by_itself_before_everything_else(calls, tmp_path):
    folder = tmp_path / "venv"
    ensure_environment(folder, extras="dev", stamp="1", torch_index="https://torch")
    venv, torch, rest = calls
    assert venv[1:] == ["-m", "venv", str(folder)]
    (pin,) = [word for word in torch if word.startswith("torch")]
    assert pin == f"torch=={pin[7:]}"
    assert pin in Path(environment.CONSTRAINTS).read_text().split()
    assert torch[-2:] == ["--index-url", "https://torch"]
    assert rest[-4:] == [
        *("-c", str(environment.CONSTRAINTS)),
        *("--editable", f"{environment.ROOT}[dev]"),
    ]
    assert is_ready(folder, "1")
    assert not is_ready(folder, "2")


def test_a_finished_environment_is_left_alone_and_an_older_one_updated(calls, tmp_path):
    folder = tmp_path / "venv"
    ensure_environment(folder, extras="dev", stamp="1")
    (folder / "keep").touch()
    ensure_environment(folder, extras="dev", stamp="1")
    assert len(calls) == 3
    ensure_environment(folder, extras="dev", stamp="2")
    assert len(calls) == 5
    assert (folder / "keep").exists()
    assert is_ready(folder, "2")


def test_an_environment_that_broke_off_is_made_again(calls, tmp_path):
    folder = tmp_path / "venv"

    def fail(command, stdout):
        stdout.write("ERROR: [Errno 28] No space left on device\n")
        stdout.flush()
        return int("--editable" in command)

    calls.run = fail
    with pytest.raises(UserError) as caught:
        ensure_environment(folder, extras="dev", stamp="1")
    message = str(caught.value)
    assert "failed at 'stillscape[dev]'; the disk is full" in message
    assert "[Errno 28] No space left on device" in message
    assert str(folder / "setup.log") in message
    assert not is_ready(folder, "1")
    (folder / "rubbish").touch()
    calls.run = lambda command, stdout: 0
    ensure_environment(folder, extras="dev", stamp="1")
    assert is_ready(folder, "1")
    assert not (folder / "rubbish").exists()


def test_an_environment_whose_python_is_gone_is_made_again(calls, tmp_path):
    folder = tmp_path / "venv"
    ensure_environment(folder, extras="dev", stamp="1")
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python3.11")
    assert not is_ready(folder, "1")
    ensure_environment(folder, extras="dev", stamp="1")
    assert is_ready(folder, "1")


def test_a_folder_of_somebody_else_is_never_touched(calls, tmp_path):
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    with pytest.raises(UserError, match="launch.sh did not make it"):
        ensure_environment(folder, extras="dev", stamp="1")
    assert (folder / "bin" / "python").exists()
    assert calls == []


def test_an_empty_folder_may_become_the_environment(calls, tmp_path):
    (tmp_path / "venv").mkdir()
    ensure_environment(tmp_path / "venv", extras="dev", stamp="1")
    assert is_ready(tmp_path / "venv", "1")


def test_of_two_at_once_one_works_and_the_other_waits(calls, tmp_path):
    folder = tmp_path / "venv"
    first_is_at_work, go_on = threading.Event(), threading.Event()

    def hold(command, stdout):
        first_is_at_work.set()
        assert go_on.wait(20)
        return 0

    calls.run = hold
    ensure = {"extras": "dev", "stamp": "1"}
    first = threading.Thread(target=ensure_environment, args=(folder,), kwargs=ensure)
    second = threading.Thread(target=ensure_environment, args=(folder,), kwargs=ensure)
    first.start()
    assert first_is_at_work.wait(20)
    second.start()
    go_on.set()
    first.join(20)
    second.join(20)
    assert is_ready(folder, "1")
    assert len(calls) == 3


def test_a_place_that_cannot_be_written_is_one_sentence(calls, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another place for the environment"):
        ensure_environment(tmp_path / "file" / "venv", extras="dev", stamp="1")


def test_it_needs_nothing_but_the_standard_library():
    process = subprocess.run(
        [sys.executable, "-S", "-m", "configs.environment", "--help"],
        capture_output=True,
        text=True,
        cwd=environment.ROOT,
    )
    assert process.returncode == 0, process.stderr
