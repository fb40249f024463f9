"""Two hosts on one machine: network namespaces, joined by a pair of virtual Ethernet devices.

Each has its own loopback device, so what one rank tells the other goes over that network or nowhere.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ToyRun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

NewToy = Callable[[str], ToyRun]
SLOW = pytest.mark.slow
ADDRESS = "10.77.0.1"
# The first shell is one host; what it starts in a further namespace is the other one.
MAKE = f"""
set -e
unshare -n sleep 3600 &
other=$!
trap 'kill $other' EXIT
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set lo up
ip link add v0 type veth peer name v1 netns $other
ip addr add {ADDRESS}/24 dev v0
ip link set v0 up
nsenter -t $other -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev v1; ip link set v1 up'
echo $$ $other
read line
"""


@dataclass(frozen=True)
class TwoHosts:
    """processes: one on each host."""

    processes: tuple[int, int]

    def variables(self) -> list[dict[str, str]]:
        return [
            {
                "NAMESPACES_OF_PROCESS": str(process),
                "MASTER_ADDR": ADDRESS,
                "GLOO_SOCKET_IFNAME": name,
            }
            for process, name in zip(self.processes, ("v0", "v1"), strict=True)
        ]

    def num_bytes(self) -> int:
        """Bytes that came to the first host over the network so far."""
        lines = Path(f"/proc/{self.processes[0]}/net/dev").read_text().splitlines()
        return int(next(line for line in lines if "v0:" in line).split(":")[1].split()[0])


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    shell = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", MAKE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert shell.stdin and shell.stdout and shell.stderr
    words = shell.stdout.readline().split()
    if not words:
        pytest.skip(f"network namespaces are not allowed here: {shell.stderr.read().strip()}")
    yield TwoHosts((int(words[0]), int(words[1])))
    shell.stdin.close()
    shell.wait(20)


@pytest.mark.parametrize("stage", [pytest.param(s, marks=SLOW) for s in (0, 1, 2)] + [3])
def test_two_hosts_learn_what_one_host_with_two_processes_learns(
    toy: NewToy, hosts: TwoHosts, stage: int
) -> None:
    here, there = toy("one_host"), toy("two_hosts")
    setting = f"engine.zero_stage={stage}"
    assert here.start_ranks(2, setting) == [0, 0], here.log.read_text()
    before = hosts.num_bytes()
    codes = there.join(there.spawn_ranks(2, setting, hosts=hosts.variables()))
    assert codes == [0, 0], there.log.read_text()
    # 24 steps of 145 weights in float32, at the very least.
    assert hosts.num_bytes() - before > 24 * 145 * 4
    assert there.records() == here.records()
    assert there.records("validation") == here.records("validation")
    left, right = there.checkpoint(24), here.checkpoint(24)
    assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_hosts_share_no_loopback_device(toy: NewToy, hosts: TwoHosts) -> None:
    """So that the test above can fail: over 127.0.0.1 the ranks don't find each other."""
    run = toy("apart")
    alone = [host | {"MASTER_ADDR": "127.0.0.1"} for host in hosts.variables()]
    processes = run.spawn_ranks(2, hosts=alone)
    processes[1].join(12)
    assert all(process.is_alive() for process in processes)
    for process in processes:
        process.kill()
        process.join()
    assert not (run.folder / "metrics.jsonl").exists()
