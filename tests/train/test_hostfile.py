"""Several nodes by a hostfile, with a stand-in for ssh that runs the command here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import UserError
from train.hostfile import Host, read_hostfile

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """#!/bin/sh
echo "$NODE_RANK of $NNODES at $MASTER_ADDR:$MASTER_PORT: $*" >> {log}
for name in USR1 TERM; do trap "echo $NODE_RANK got $name >> {log}; exit 75" $name; done
test -e {marker}.$NODE_RANK && exit "$(cat {marker}.$NODE_RANK)"
while test ! -e {marker}; do sleep 0.05; done
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a run on three nodes whose launch.sh notes what it is given and waits for a file or a signal."""
    launcher, log, marker = (tmp_path / name for name in ("launch.sh", "log", "marker"))
    launcher.write_text(LAUNCHER.format(log=log, marker=marker))
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\ntest "$1" = lost && exit 255\nexec sh -c "$2"\n')
    for file in (launcher, ssh):
        file.chmod(0o755)

    def run(*hosts: str) -> subprocess.Popen[str]:
        hostfile = tmp_path / "hosts"
        hostfile.write_text("".join(f"{host} slots=2\n" for host in hosts))
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "train.hostfile", "--hostfile", str(hostfile)),
                *("--launcher", str(launcher), "--", "my recipe.yaml", "lr=1"),
            ],
            env={**os.environ, "STILLSCAPE_SSH": str(ssh), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def wait_for_lines(log: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return sorted(log.read_text().splitlines())


def test_every_node_runs_the_same_with_its_own_number(start, tmp_path: Path) -> None:
    process = start("one", "two", "three")
    assert wait_for_lines(tmp_path / "log", 3) == [
        f"{number} of 3 at one:29500: train --nproc=2 my recipe.yaml lr=1" for number in range(3)
    ]
    (tmp_path / "marker").touch()
    assert process.wait(60) == 0


def test_a_signal_reaches_every_node_and_the_code_comes_back(start, tmp_path: Path) -> None:
    process = start("one", "two")
    wait_for_lines(tmp_path / "log", 2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert wait_for_lines(tmp_path / "log", 4)[::2] == ["0 got USR1", "1 got USR1"]


@pytest.mark.parametrize("code", ["2", "1", "75"])
def test_one_node_that_ends_badly_ends_all(start, tmp_path: Path, code: str) -> None:
    (tmp_path / "marker.1").write_text(code)
    process = start("one", "two", "three")
    assert process.wait(60) == int(code)
    lines = (tmp_path / "log").read_text().splitlines()
    assert sum("got" in line for line in lines) <= 2


def test_a_node_that_cannot_be_reached_is_named(start, tmp_path: Path) -> None:
    process = start("one", "lost")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "lost can't be reached" in errors


def test_a_lost_connection_is_a_signal_to_stop(tmp_path: Path) -> None:
    text = f"trap 'echo saved > {tmp_path}/log; exit 75' TERM; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-m", "train.hostfile", "--serve", text], stdin=subprocess.PIPE, cwd=ROOT
    )
    time.sleep(1)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 75
    assert (tmp_path / "log").read_text() == "saved\n"


def test_a_hostfile_is_read_as_deepspeed_does(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# all\nnode1 slots=8\n\nnode2   slots = 4  # old\n")
    assert read_hostfile(path) == [Host("node1", 8), Host("node2", 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no node"),
        ("node1\n", r'hosts:1: found "node1", expected a line such as: node1 slots=8'),
        ("a slots=1\na slots=2\n", "hosts:2: a stands there twice"),
    ],
)
def test_a_bad_hostfile_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_hostfile(path)
