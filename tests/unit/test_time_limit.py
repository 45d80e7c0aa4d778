"""Blocks that take too long are ended, on the main thread."""

import itertools
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from stem_complete.time_limit import OutOfTimeError, time_limit


def test_a_block_that_never_ends_is_ended() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTimeError), time_limit(0.01):
        for _ in itertools.count():
            pass
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_other_threads_are_left_alone() -> None:
    def block() -> str:
        with time_limit(0.001):
            return "done"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(block).result() == "done"
