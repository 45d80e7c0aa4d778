"""Asking a run to stop."""

import os
import signal
import threading

import pytest

from stem_complete.training import StopRequest, stop_on_signals


def test_the_first_reason_counts():
    stop = StopRequest()
    assert stop.reason is None
    stop("one")
    stop("another")
    assert (stop.reason, stop.signal) == ("one", None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_ask_inside_the_block_only(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        assert stop.reason == f"{number.name} was received"
        assert stop.signal == number
        os.kill(os.getpid(), signal.SIGTERM)  # once more is no harm
        assert stop.signal == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once():
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_install_nothing():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def enter():
        with stop_on_signals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [before]


class TestARequestThatIsPartOfAnother:
    def test_asks_when_that_does(self):
        whole = StopRequest()
        part = StopRequest(whole)
        assert (part.reason, part.signal, part.at_once) == (None, None, False)
        whole.on_signal(signal.SIGTERM, None)
        assert (part.reason, part.signal) == ("SIGTERM was received", signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            whole.on_signal(signal.SIGINT, None)
        assert part.at_once

    def test_asks_alone_for_a_reason_of_its_own(self):
        whole = StopRequest()
        one, other = StopRequest(whole), StopRequest(whole)
        one("it was lost")
        assert (whole.reason, one.reason, other.reason) == (None, "it was lost", None)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (None, SystemExit)],
)
def test_the_process_ends_as_by_the_signal_that_asked(number, expected):
    stop = StopRequest()
    if number is not None:
        stop.on_signal(number, None)
    ending = stop.exit()
    assert type(ending) is expected
    assert getattr(ending, "code", 143) == 143
