from __future__ import annotations

import os
import signal

import pytest

from train.stopping import Interrupted, StopRequest


@pytest.mark.usefixtures("interruptible")
def test_a_signal_is_noted_and_the_next_one_acts_at_once() -> None:
    with StopRequest() as stop:
        assert not stop.signalled and not stop.out_of_time
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_breaks_off_only_what_may_be_broken_off() -> None:
    with StopRequest() as stop:
        with stop.interrupting(False):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.caught == signal.SIGTERM
        with pytest.raises(Interrupted), stop.interrupting():
            pytest.fail("a signal had come before")
    with StopRequest() as stop, pytest.raises(Interrupted), stop.interrupting():
        os.kill(os.getpid(), signal.SIGUSR1)


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_time_budget_runs_from_the_start() -> None:
    assert StopRequest(max_minutes=1e-9).out_of_time
    assert not StopRequest(max_minutes=10.0).out_of_time
