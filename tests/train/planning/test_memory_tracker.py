"""The tracker against PyTorch's own counts: its allocator's reports, and its FLOP counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_steps import allocated_peak
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from train.planning.memory_tracker import COPIES, GRADIENTS, MemoryTracker


class Net(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 512), nn.Linear(512, 64)
        self.conv = nn.Conv1d(64, 64, 3, padding=1)
        self.checkpointed = checkpointed

    def block(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = (
                checkpoint(self.block, x, use_reentrant=False)
                if self.checkpointed
                else self.block(x)
            )
        heads = x.unflatten(-1, (4, 16)).transpose(1, 2)
        x = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return self.conv(x.mT).square().mean()


def run(net: nn.Module, x: Tensor, half: bool = False) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = net(x)
    loss.float().backward()


def track(net: nn.Module, x: Tensor, step: Callable[..., None], **options: bool) -> MemoryTracker:
    tracker = MemoryTracker()
    tracker.leave_out([*net.parameters(), x])
    tracker.watch(net.parameters())
    with tracker:
        step(net, x, **options)
    return tracker


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_peaks_are_the_allocators(checkpointed: bool, half: bool) -> None:
    net, x = Net(checkpointed), torch.randn(8, 256, 64)
    run(net, x, half)
    net.zero_grad()
    real = allocated_peak(lambda: run(net, x, half))
    net.zero_grad()
    tracker = track(net, x, run, half=half)
    assert tracker.peak == pytest.approx(real, rel=0.05)
    with FakeTensorMode():
        fake = track(Net(checkpointed), torch.randn(8, 256, 64), run, half=half)
    assert fake.peak == pytest.approx(tracker.peak, rel=0.05)
    assert (fake.live[COPIES], tracker.live[COPIES]) == (0, 0)


def test_what_stays_are_the_gradients() -> None:
    net, x = Net(), torch.randn(8, 256, 64)
    tracker = track(net, x, run)
    assert tracker.total == tracker.live[GRADIENTS] == sum(p.nbytes for p in net.parameters())
    assert tracker.peak_beside_gradients <= tracker.peak
    net.zero_grad()
    assert tracker.total == 0


def test_views_and_in_place_results_count_once() -> None:
    with MemoryTracker() as tracker:
        x = torch.zeros(10)
        y = x.view(2, 5)[1:]
        y += 1
    assert tracker.total == 40
    del x
    assert tracker.total == 40
    del y
    assert tracker.total == 0
    with MemoryTracker(rounding=512) as tracker:
        z = torch.zeros(10)
    assert z.nbytes < tracker.total == 512


def test_copies_of_weights_in_half_precision_are_told_apart() -> None:
    net, x = Net(), torch.randn(8, 256, 64)
    tracker = MemoryTracker()
    tracker.leave_out([*net.parameters(), x])
    tracker.watch(net.parameters())
    with tracker, torch.autocast("cpu", torch.bfloat16):
        loss = net(x)
        assert tracker.live[COPIES] == sum(p.nbytes // 2 for p in net.parameters())
        del loss


def test_flops_are_those_of_torchs_counter() -> None:
    net, x = Net(), torch.randn(8, 256, 64)
    tracker = track(net, x, run)
    with FlopCounterMode(display=False) as counter:
        run(net, x)
    # Torch's counter leaves out the CPU's fused attention: two products forward, five backward.
    attention = 7 * 2 * 8 * 4 * 256 * 256 * 16
    assert sum(tracker.flops.values()) == counter.get_total_flops() + attention


def test_origins_nest() -> None:
    with MemoryTracker() as tracker, tracker.origin("a"):
        x = torch.zeros(1)
        with tracker.origin("b"):
            y = torch.zeros(2)
        z = torch.zeros(4)
    assert dict(tracker.live) == {"a": 20, "b": 8}
    del x, y, z
