"""Ranks on two hosts, over a network, at each ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from network_hosts import TwoHosts, two_hosts
from toy_run import ToyRun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

NewToy = Callable[[str], ToyRun]
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as hosts:
        yield hosts


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
