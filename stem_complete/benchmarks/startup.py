"""Start of the package and of the command line, and the way from `train` to the first step."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.runs import small_store
from stem_complete.console import track

_HELP_LIMIT_S = 0.5
_IMPORT_LIMIT_S = 0.3
_CROP_PX = 64

PHASES = (
    "importing the package",
    "reading the config",
    "opening the MLflow run",
    "building store, network and loader",
    "first step",
)


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Wall times of fresh processes, whose files the system has read before."""
    yield from _imports(effort)
    yield from _first_step(effort, folder)


def _imports(effort: Effort) -> Iterator[Comparison]:
    cases = {
        "torch": _process("-c", "import torch"),
        "package": _process("-c", "import torch, stem_complete"),
        "completer": _process("-c", "import torch; from stem_complete import load_completer"),
        "help": _process("-m", "stem_complete", "--help"),
    }
    seconds = durations(cases, effort.rounds)
    limit = [_IMPORT_LIMIT_S + value for value in seconds["torch"]]
    within = f"import torch, and {_IMPORT_LIMIT_S} s"
    yield Comparison(
        "import torch, stem_complete", "s", seconds["package"], "import torch", seconds["torch"]
    )
    yield Comparison(
        "import torch, stem_complete", "s", seconds["package"], within, limit, Goal("<=", 1)
    )
    yield Comparison(
        "import torch; from stem_complete import load_completer",
        "s",
        seconds["completer"],
        within,
        limit,
        note="`import stem_complete` alone loads nothing; this loads what completions need",
    )
    yield Comparison(
        "stem-complete --help",
        "s",
        seconds["help"],
        "limit",
        [_HELP_LIMIT_S] * effort.rounds,
        Goal("<=", 1),
    )


def _first_step(effort: Effort, folder: Path) -> Iterator[Comparison]:
    store = small_store(folder / "store.zarr", _CROP_PX)
    warm_up = 0 if effort.quick else 1
    rounds: list[list[float]] = []
    for number in track(range(warm_up + effort.rounds), "training to the first step"):
        found = seconds_by_phase(store, folder / f"run{number}")
        if number >= warm_up:
            rounds.append(found)
    note = f"train --local, compact network, {_CROP_PX}x{_CROP_PX}, new run in MLflow's SQLite file"
    for phase, values in zip(PHASES, zip(*rounds, strict=True), strict=True):
        yield Comparison(f"until the first step: {phase}", "s", values, note=note)
    yield Comparison("until the first step, in all", "s", [sum(r) for r in rounds], note=note)


def seconds_by_phase(store: Path, storage: Path) -> list[float]:
    """Wall time [s] of each of `PHASES` in a fresh process that trains for one step.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    overrides = [
        *("name=startup", f"storage={storage}", f"data.store={store}", "model.preset=compact"),
        *("training.steps=1", "training.log_every_steps=1", "training.batch_size=1"),
    ]
    # One clock for both processes: on Linux it counts from the start of the machine.
    started = time.monotonic()
    printed = _python("-c", _DRIVER, json.dumps(overrides))
    marks = [started, *json.loads(printed.splitlines()[-1])]
    return [after - before for before, after in pairwise(marks)]


# What `stem-complete train --local` does, with a look at the clock in between. It is left by
# SystemExit as after SIGTERM, so that what follows the first step takes no time here.
_DRIVER = """
import json, sys, time

import stem_complete.cli
from stem_complete.config import load_config
from stem_complete.launch import runs
from stem_complete.training import CompletionTask
from torch.nn.modules.module import register_module_forward_pre_hook

marks = [time.monotonic()]


def mark():
    marks.append(time.monotonic())


class UntilFirstStep:
    def __init__(self, recorder):
        self.recorder = recorder

    def scalars(self, step, values):
        mark()
        raise SystemExit(0)

    def __getattr__(self, name):
        return getattr(self.recorder, name)


def open_run(*arguments, open_run=runs.open_run, **options):
    run = open_run(*arguments, **options)
    mark()
    return run


def train(*arguments, train=runs.train, recorder, **options):
    def begin(module, inputs):
        if isinstance(module, CompletionTask):
            hook.remove()
            mark()

    hook = register_module_forward_pre_hook(begin)
    return train(*arguments, recorder=UntilFirstStep(recorder), **options)


runs.open_run, runs.train = open_run, train
config = load_config([], json.loads(sys.argv[1]))
mark()
try:
    runs.launch(config, local=True)
finally:
    print(json.dumps(marks))
"""


def _process(*arguments: str) -> Callable[[], object]:
    return lambda: _python(*arguments)


def _python(*arguments: str) -> str:
    """Standard output of a Python process."""
    command = [sys.executable, *arguments]
    done = subprocess.run(  # noqa: S603 - fixed arguments
        command, capture_output=True, text=True, check=True
    )
    return done.stdout
