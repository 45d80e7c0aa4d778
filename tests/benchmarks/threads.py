"""Threads of a completion: as the commands have them, beside one, at rest and on a busy machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from . import Setting
from .report import Comparison, Goal

WAYS: dict[str, dict[str, str]] = {
    "as in the commands": {"GOMP_SPINCOUNT": "1000"},
    "as OpenMP is by itself": {},
    "that sleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one": {"OMP_NUM_THREADS": "1"},
}
"""What the environment says, which OpenMP reads once: each is a process of its own."""

_COMPLETE = """
import sys, time
import numpy as np
from stem_complete import load_completer
from stem_complete.scan import archimedean
side, num = map(int, sys.argv[1:])
dwell = archimedean((side, side), "1/5").dwell_map().numpy()
image = np.sin(np.mgrid[:side, :side].sum(0) / 7)
scan = np.where(dwell > 0, image + np.random.default_rng(0).normal(0, 0.1, image.shape), np.nan)
completer = load_completer(device="cpu")
completer.complete(scan, dwell)
started = time.perf_counter()
for _ in range(num):
    completer.complete(scan, dwell)
print((time.perf_counter() - started) / num)
"""


def run(setting: Setting) -> Iterator[Comparison]:
    """Time of a scan with error map, by the clock; leave the machine alone meanwhile."""
    side, num = (32, 1) if setting.quick else (512, 4)
    *ways, one = WAYS
    if setting.quick:  # each loads torch
        ways = ways[:1]
    for load in [True] if setting.quick else [False, True]:
        seconds: dict[str, list[float]] = {way: [] for way in (*ways, one)}
        for _ in range(setting.rounds):
            for way in seconds:
                with _busy() if load else nullcontext():
                    seconds[way].append(_seconds(way, side, num))
        for way in ways:
            yield Comparison(
                f"scan of {side}x{side} px, threads {way}{', a core is taken' if load else ''}",
                "s",
                seconds[way],
                "one thread",
                seconds[one],
                # A busy core costs some of what threads gain elsewhere.
                Goal("<=", 2.5 if load else 1.0) if way == ways[0] else None,
            )


def _seconds(way: str, side: int, num: int) -> float:
    names = {name for told in WAYS.values() for name in told}
    own = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", _COMPLETE, str(side), str(num)],
        env=own | WAYS[way],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@contextmanager
def _busy() -> Iterator[None]:
    """Another process that takes a core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()
