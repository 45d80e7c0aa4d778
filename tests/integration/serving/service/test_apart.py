"""What is called in a process apart harms nobody."""

import os
import signal
import time

import numpy as np
import pytest

from stem_complete.serving.service.apart import Apart, EndedError
from stem_complete.serving.service.limits import Limits, check_pixels
from stem_complete.serving.service.problems import Problem


def test_waiting_for_the_processor_is_no_loop():
    """Beside other work a start took longer than the limit, and a sound body was called damaged."""
    assert Apart().call(time.sleep, 2.0, limit_s=1, limit_bytes=2**28) is None


def test_what_crashes_hangs_or_fails_is_told_and_the_next_is_answered():
    apart, limits = Apart(), {"limit_s": 600.0, "limit_bytes": 2**28}
    assert apart.call(os.getpid, **limits) != os.getpid()
    assert apart.call(os.getpid, **limits) == apart.call(os.getpid, **limits)
    with pytest.raises(Problem, match="pixels"):
        apart.call(check_pixels, (10**6, 10**6), Limits(), **limits)
    with pytest.raises(MemoryError):
        apart.call(np.ones, 2**27, **limits)
    with pytest.raises(EndedError, match="crashes"):
        apart.call(os._exit, 1, **limits)
    with pytest.raises(EndedError, match="more than 1 s"):
        apart.call(pow, 3, 10**9, limit_s=1, limit_bytes=2**28)
    with pytest.raises(EndedError, match=r"more than 0\.1 s"):
        apart.call(signal.pause, limit_s=0.1, limit_bytes=2**28)
    assert apart.call(os.getpid, **limits) != os.getpid()
