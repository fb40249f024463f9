from __future__ import annotations

import re
import threading
import time

import pytest
from torch.distributed import TCPStore

from train.hang_watch import UNHEARD, HangWatch, Place, describe
from train.ranks import Ranks
from train.run import _longest_wait


def place(count: int, step: int, part: str) -> Place:
    return Place(count, step, part, False, f"process {count}")


def test_who_has_come_the_least_far_is_named() -> None:
    places = [place(41, 10, "backward"), place(40, 10, "data"), place(41, 10, "backward")]
    assert describe(places) == (
        "rank 1 (process 40) hangs at step 10 (data), while the others wait at step 10 (backward)"
    )
    assert describe([places[0]] * 3) == "all 3 ranks hang at step 10 (backward)"
    assert describe([places[1]]) == "rank 0 (process 40) hangs at step 10 (data)"
    assert describe([places[0], UNHEARD]).startswith("rank 1 (not heard of yet) hangs at step 0")


def test_many_are_counted() -> None:
    text = describe([place(1, 1, "loss")] * 12 + [place(2, 1, "backward")])
    assert "rank 7 (process 1) and 4 more hang at step 1 (loss)" in text


class Ended:
    """What a watch does instead of ending the process: it notes the exit code and watches no more."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.codes: list[int] = []
        self.watch: HangWatch | None = None

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.event.set()
        assert self.watch is not None
        self.watch._stopped.set()


def watched(ranks: Ranks, seconds: float, long_seconds: float) -> tuple[HangWatch, Ended]:
    end = Ended()
    end.watch = HangWatch(ranks, seconds / 60, long_seconds / 60, end)
    return end.watch, end


def test_a_stand_still_ends_the_process_and_validation_may_take_longer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    watch, end = watched(Ranks(), 0.4, 600)
    with watch:
        with watch.long_part(3, "validation"):
            assert not end.event.wait(1.0)
        watch.at(4, "data")
        assert end.event.wait(20)
    assert end.codes == [1]
    told = capfd.readouterr().err
    assert re.search(r"error: nothing has moved for \d+ s: rank 0 \(process \d+ on .* hangs", told)


def test_a_validation_that_stands_still_ends_a_lone_process_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    watch, end = watched(Ranks(), 0.2, 1.0)
    with watch, watch.long_part(3, "validation"):
        assert end.event.wait(20)
    told = capfd.readouterr().err
    seconds = re.search(r"nothing has moved for (\d+) s: rank 0 .* hangs at step 3 \(valid", told)
    assert seconds is not None and int(seconds[1]) >= 1
    assert "loop.long_hang_minutes" in told


def test_a_rank_that_hangs_in_validation_excuses_the_others_only_so_long(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Frozen whole, with its own watch: the other rank has to speak for it."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    frozen = HangWatch(Ranks(1, 2, store=store), None)
    frozen._exchange(store, Place(1, 3, "validation", True, "process 1"))
    watch, end = watched(Ranks(0, 2, store=store), 0.2, 2.0)
    with watch:
        with watch.long_part(3, "validation"):
            pass
        assert not end.event.wait(1.0)
        assert end.event.wait(20)
    told = capfd.readouterr().err
    assert "rank 1 (process 1) hangs at step 3 (validation), while the others wait at" in told


def test_what_moves_is_left_alone() -> None:
    codes: list[int] = []
    with HangWatch(Ranks(), 2.0 / 60, end=codes.append) as watch:
        for step in range(60):
            watch.at(step, "loss")
            time.sleep(0.05)
    assert codes == []


def test_no_collective_call_gives_up_before_the_watch_has_spoken(toy) -> None:
    short, long = toy("short").config(), toy("long").config("loop.long_hang_minutes=600")
    for config in (short, long):
        minutes = max(config.loop.hang_minutes, config.loop.long_hang_minutes)
        wait = _longest_wait(config)
        assert wait is not None and wait.total_seconds() > 60 * minutes
    assert _longest_wait(toy("never").config("loop.hang_minutes=null")) is None
