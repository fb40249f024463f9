"""Whole runs through launch.sh, torchrun and all: signals, exit codes, workers that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from network_hosts import ADDRESSES, DEVICE, two_hosts
from toy_run import HERE, ToyRun

from train.checkpoints import find_damage

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]

NewToy = Callable[[str], ToyRun]
ROOT = HERE.parents[1]
# Stands for the environment's Python: trains the toy task where launch.sh says train.run.
PYTHON = f"""#!/bin/bash
words=()
while (($#)); do
    if [[ "$1 ${{2:-}}" == "-m train.run" ]]; then words+=("{HERE}/toy_task.py"); shift; else words+=("$1"); fi
    shift
done
exec "{sys.executable}" "${{words[@]}}"
"""
MAKER = """#!/bin/bash
if [[ "$1" == -c ]]; then echo 3.12; exit; fi
while [[ "$1" != --stamp ]]; do shift; done
echo "$2" > "{0}/stillscape.stamp"
"""


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts `launch.sh train` with an environment that has the toy task; output goes to the run's log."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for file, text in ((venv / "bin" / "python", PYTHON), (tmp_path / "maker", MAKER.format(venv))):
        file.write_text(text)
        file.chmod(0o755)
    taken = ("SLURM", "NNODES", "NODE_RANK", "MASTER", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    variables = {"STILLSCAPE_VENV": str(venv), "STILLSCAPE_PYTHON": str(tmp_path / "maker")}

    def start(run: ToyRun, *arguments: str) -> subprocess.Popen[bytes]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
        with run.log.open("ab") as log:
            return subprocess.Popen(
                ["bash", str(ROOT / "launch.sh"), "train", *arguments],
                stdout=log,
                stderr=log,
                env=clean | variables,
                cwd=ROOT,
            )

    return start


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_a_checkpoint_and_the_requeue_code_within_30_seconds(
    toy: NewToy, launch: Callable[..., subprocess.Popen[bytes]], name: str
) -> None:
    """With --max-restarts too, which must not start again what asked to be requeued."""
    run = toy("signalled")
    settings = run.arguments("loop.steps=100000", "task.seconds_per_batch=0.01")
    process = launch(run, "--nproc", "2", "--max-restarts", "2", *settings)
    wait_for_steps(run, process, 3)
    process.send_signal(getattr(signal, name))
    asked = time.monotonic()
    assert process.wait(30) == 75, run.log.read_text()
    print(f"\n{name}: ended with 75 after {time.monotonic() - asked:.1f} s")
    log = run.log.read_text()
    assert f"stopped with a checkpoint, since {name} came; continue with resume=auto" in log
    assert "Traceback" not in log
    newest = sorted((run.folder / "checkpoints").iterdir())[-1]
    assert find_damage(newest) is None


def test_a_killed_worker_is_started_again_and_loses_at_most_a_save_interval(
    toy: NewToy, launch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    whole, run = toy("whole"), toy("killed")
    assert whole.start_ranks(2) == [0, 0]
    trace = run.root / "trace"
    fault = (
        "task.fault.kind=die", "task.fault.rank=1", "task.fault.batches=[31]",
        f"task.fault.marker={run.root}/died", f"task.trace={trace}",
    )  # fmt: skip
    process = launch(run, "--nproc=2", "--max-restarts=1", *run.arguments(*fault))
    assert process.wait(400) == 0, run.log.read_text()
    assert (run.root / "died").exists()
    assert run.records() == whole.records()
    taken = [json.loads(line)[0] for line in trace.read_text().splitlines()]
    again = [position for position in set(taken) if taken.count(position) > 2]
    # Batch 31 is in step 16; the checkpoint of step 12 had taken 24 batches, of two a step.
    assert sorted(again) == list(range(24, 31)) or sorted(again) == list(range(24, 32))


def test_a_mistake_is_not_started_again(
    toy: NewToy, launch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    run = toy("mistake")
    process = launch(run, "--nproc=2", "--max-restarts=3", *run.arguments("engine.device=cuda"))
    assert process.wait(200) == 2, run.log.read_text()
    assert 1 <= run.log.read_text().count("error: engine.device=cuda, but") <= 2


def test_the_nodes_of_a_hostfile_train_together_and_stop_together(
    toy: NewToy, launch: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts in network namespaces: stopped by a signal to launch.sh, then continued to the end."""
    whole, run = toy("whole"), toy("nodes")
    assert whole.start_ranks(2) == [0, 0]
    hostfile, ssh = run.root / "hosts", run.root / "ssh"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
    with two_hosts() as hosts:
        cases = zip(ADDRESSES, hosts.processes, strict=True)
        lines = "".join(f"{address}) process={process} ;;\n" for address, process in cases)
        enter = 'exec nsenter --target "$process" --user --net sh -c "$2"'
        ssh.write_text(f'#!/bin/sh\ncase "$1" in\n{lines}esac\n{enter}\n')
        ssh.chmod(0o755)
        monkeypatch.setenv("STILLSCAPE_SSH", str(ssh))
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", DEVICE)
        command = (f"--hostfile={hostfile}", *run.arguments("resume=auto"))
        before = hosts.num_bytes()
        process = launch(run, *command, "task.seconds_per_batch=0.2")
        wait_for_steps(run, process, 2)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 75, run.log.read_text()
        config = run.folder / "config.yaml"
        config.write_text(
            config.read_text().replace("seconds_per_batch: 0.2", "seconds_per_batch: 0.0")
        )
        assert launch(run, *command).wait(400) == 0, run.log.read_text()
        assert hosts.num_bytes() - before > 24 * 145 * 4
    assert run.records() == whole.records()


def wait_for_steps(run: ToyRun, process: subprocess.Popen[bytes], lines: int) -> None:
    deadline = time.monotonic() + 300
    while not run.metrics.exists() or run.metrics.read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.05)
