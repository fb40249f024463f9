from __future__ import annotations

import re
import threading
import time

import pytest

from train.hang_watch import UNHEARD, HangWatch, Place, describe
from train.ranks import Ranks


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


def test_a_stand_still_ends_the_process_and_validation_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ended = threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()
        watch._stopped.set()

    with HangWatch(Ranks(), 0.4 / 60, end) as watch:
        with watch.untimed(3, "validation"):
            assert not ended.wait(1.0)
        watch.at(4, "data")
        assert ended.wait(20)
    assert codes == [1]
    told = capfd.readouterr().err
    assert re.search(r"error: nothing has moved for \d+ s: rank 0 \(process \d+ on .* hangs", told)


def test_what_moves_is_left_alone() -> None:
    codes: list[int] = []
    with HangWatch(Ranks(), 2.0 / 60, codes.append) as watch:
        for step in range(60):
            watch.at(step, "loss")
            time.sleep(0.05)
    assert codes == []
