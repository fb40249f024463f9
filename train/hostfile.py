"""Starts a run on every node of a hostfile, over ssh: `launch.sh train --hostfile FILE RECIPE`.

Each node gets the same `launch.sh train`, with variables that say which node it is, in the folder where this one
stands (a shared one). Signals that ask a run to stop go to all nodes; the exit code is that of the node that ended
first with one, so that a scheduler can act on it. A node whose connection breaks stops its part with a checkpoint.
Needs the standard library alone: --dry-run works before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from configs.errors import EXIT_BUG, EXIT_DONE, UserError, run_command

PASSED_ON = (
    "STILLSCAPE_", "NCCL_", "GLOO_", "OMP_", "NUMBA_", "CUDA_", "TORCH_", "HF_", "MASTER_PORT",
)  # fmt: skip
"""Beginnings of the variables that the other nodes get too."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SSH_FAILED = 255
EXAMPLE = "it has lines such as: node1 slots=8"


@dataclass(frozen=True)
class Host:
    """A node, and how many processes it takes."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """The nodes of a DeepSpeed hostfile. Raises UserError where it can't be read or names one twice."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"train: cannot read the hostfile {path}; {EXAMPLE}") from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"(\S+)\s+slots\s*=\s*([1-9]\d*)", text)
        if found is None:
            raise UserError(
                f'{path}:{number}: found "{text}", expected a line such as: node1 slots=8'
            )
        if any(host.name == found[1] for host in hosts):
            raise UserError(f"{path}:{number}: {found[1]} stands there twice; give it one line")
        hosts.append(Host(found[1], int(found[2])))
    if not hosts:
        raise UserError(f"{path}: names no node; {EXAMPLE}")
    return hosts


def node_command(
    hosts: Sequence[Host],
    number: int,
    launcher: Path,
    arguments: Sequence[str],
    variables: Mapping[str, str],
) -> str:
    """What a shell on one of the nodes runs."""
    given = {name: value for name, value in variables.items() if name.startswith(PASSED_ON)}
    given |= {"NNODES": str(len(hosts)), "NODE_RANK": str(number)}
    given["MASTER_ADDR"] = variables.get("MASTER_ADDR", hosts[0].name)
    given["MASTER_PORT"] = variables.get("MASTER_PORT", "29500")
    words = [f"{name}={value}" for name, value in sorted(given.items())]
    train = [str(launcher), "train", f"--nproc={hosts[number].slots}", *arguments]
    return f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(['env', *words, *train])}"


class Nodes:
    """The running nodes: signals go to all, and the first bad end is the end of all."""

    def __init__(self, hosts: Sequence[Host], commands: Sequence[Sequence[str]]) -> None:
        self.hosts = hosts
        self.ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        # In sessions of their own, so that Ctrl-C reaches them as an order and does not break the connection.
        self.processes = [
            subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
            for words in commands
        ]

    def wait(self) -> int:
        """The exit code of the first node that ended badly, once all have ended; 0 where none did."""
        for number, process in enumerate(self.processes):
            threading.Thread(target=self._await, args=(number, process), daemon=True).start()
        code = EXIT_DONE
        for _ in self.processes:
            number, ended = self.ended.get()
            if ended != EXIT_DONE and code == EXIT_DONE:
                code = ended
                if ended == SSH_FAILED:
                    print(
                        f"error: {self.hosts[number].name} can't be reached, or its connection broke",
                        file=sys.stderr,
                    )
                self.signal(signal.SIGTERM)
        return EXIT_BUG if code < 0 or code == SSH_FAILED else code

    def signal(self, number: int) -> None:
        """Has every node that still runs get a signal."""
        for process in self.processes:
            assert process.stdin is not None
            try:
                process.stdin.write(f"{signal.Signals(number).name}\n".encode())
                process.stdin.flush()
            except (BrokenPipeError, ValueError):
                continue  # it has ended

    def _await(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.ended.put((number, process.wait()))


def serve(command: str, orders: IO[str]) -> int:
    """Runs a command on a node; each line of `orders` is a signal for it, and their end is SIGTERM."""
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL)

    def obey() -> None:
        for line in orders:
            process.send_signal(signal.Signals[line.strip()])
        process.send_signal(signal.SIGTERM)  # a process that has ended gets none

    threading.Thread(target=obey, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else EXIT_BUG


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--serve", metavar="COMMAND", help="run it here, with signals from standard input"
    )
    parser.add_argument("--hostfile", type=Path)
    parser.add_argument("--launcher", type=Path, help="launch.sh")
    parser.add_argument("--dry-run", action="store_true", help="print the command for each node")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if options.serve is not None:
        return serve(options.serve, sys.stdin)
    hosts = read_hostfile(options.hostfile)
    arguments = options.arguments[1:]  # what stands after the "--"
    shell = shlex.split(os.environ.get("STILLSCAPE_SSH", "ssh -o BatchMode=yes"))
    commands = []
    for number, host in enumerate(hosts):
        text = node_command(hosts, number, options.launcher, arguments, os.environ)
        if options.dry_run:
            print(f"# node {number}: {host.name}\n{shlex.join([*shell, host.name, text])}")
            continue
        served = [sys.executable, "-m", "train.hostfile", "--serve", text]
        place = f"PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}"
        remote = f"{place} PYTHONSAFEPATH=1 exec {shlex.join(served)}"
        here = host.name in {"localhost", socket.gethostname()}
        commands.append(["sh", "-c", remote] if here else [*shell, host.name, remote])
    if options.dry_run:
        return EXIT_DONE
    nodes = Nodes(hosts, commands)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: nodes.signal(number))
    return nodes.wait()


if __name__ == "__main__":
    run_command(main)
