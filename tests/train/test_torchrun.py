"""The exit code of a run of several processes, and the signals that reach them."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

WORKER = textwrap.dedent(
    """
    import os, signal, sys, time
    stopped = []
    for name in ("SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), lambda number, frame: stopped.append(number))
    if sys.argv[1] == "wait":
        os.write(1, b"ready\\n")
        while not stopped:
            time.sleep(0.02)
        os.write(1, f"saved after {stopped[0]}\\n".encode())
        sys.exit(75)
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(sys.argv[1]))
    """
)


@pytest.fixture
def torchrun(tmp_path):
    """Starts two workers under our torchrun; returns the running process."""
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "train.torchrun", "--standalone", "--nproc-per-node=2"]
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, str(tmp_path / "worker.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.distributed
@pytest.mark.parametrize(("worker", "code"), [("2", 2), ("75", 75), ("die", 1)])
def test_the_exit_code_is_that_of_the_workers(torchrun, worker, code):
    process = torchrun(worker)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert ("was killed by signal 9" in errors) == (worker == "die")
    assert ("ended with exit code 2" in errors) == (worker == "2")


@pytest.mark.distributed
def test_a_signal_lets_the_workers_save_and_asks_for_another_start(torchrun):
    process = torchrun("wait")
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n"] * 2
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines() == [f"saved after {int(signal.SIGUSR1)}"] * 2
    assert process.returncode == 75
