"""Two hosts on one machine: network namespaces, joined by a pair of virtual Ethernet devices.

Each has its own loopback device, so what one rank tells the other goes over that network or nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from namespaces import shell_in_namespaces

ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICE = "v0"
"""What each calls its end."""
# The first shell is one host; what it starts in a further namespace is the other one.
MAKE = f"""
set -e
unshare -n sleep 3600 &
other=$!
trap 'kill $other' EXIT
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set lo up
ip link add {DEVICE} type veth peer name {DEVICE} netns $other
ip addr add {ADDRESSES[0]}/24 dev {DEVICE}
ip link set {DEVICE} up
nsenter -t $other -n sh -c '
    ip link set lo up
    ip addr add {ADDRESSES[1]}/24 dev {DEVICE}
    ip link set {DEVICE} up'
echo $$ $other
read line
"""


@dataclass(frozen=True)
class TwoHosts:
    """processes: one on each host."""

    processes: tuple[int, int]

    def variables(self) -> list[dict[str, str]]:
        """What a process needs to run there and find the other."""
        return [
            {
                "NAMESPACES_OF_PROCESS": str(process),
                "MASTER_ADDR": ADDRESSES[0],
                "GLOO_SOCKET_IFNAME": DEVICE,
            }
            for process in self.processes
        ]

    def num_bytes(self) -> int:
        """Bytes that came to the first host over the network so far."""
        lines = Path(f"/proc/{self.processes[0]}/net/dev").read_text().splitlines()
        return int(next(line for line in lines if f"{DEVICE}:" in line).split(":")[1].split()[0])


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """The hosts while entered; skips the test that asks where they can't be made."""
    with shell_in_namespaces(["--net"], MAKE, tools=["nsenter", "ip"]) as processes:
        yield TwoHosts((int(processes[0]), int(processes[1])))
