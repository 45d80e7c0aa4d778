"""Training under Ray Train beside the same training under torchrun."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stem_complete.benchmarks.measure import Comparison, Effort, Goal
from stem_complete.benchmarks.runs import Command, run_config, small_store, train_command, windows
from stem_complete.config import Config
from stem_complete.console import track

RAY, TORCHRUN, AGAIN = "ray", "torchrun", "torchrun-again"
GOAL = Goal("<=", 1.02)
WARM_UP_STEPS = 50
TURNS, TURN_S = 10, 1.5


class Pace(NamedTuple):
    """Of a run in a turn [s].

    Attributes:
        step_s: Median time of a step.
        quick_s: That of the quickest tenth, which other work on the machine met least.
        cpu_s: CPU time that a step takes all processes.
    """

    step_s: float
    quick_s: float
    cpu_s: float


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Steps of groups of two workers, which are started anew in each round and then take turns.

    All processes of those whose turn it is not are stopped, Ray's own too. So turns can be short,
    and other work on the machine meets all groups; not quite alike, as Linux shares cores out by
    session, of which Ray has one more. Groups that do not differ still differ by some percent, as
    long as they run: by where their memory lies. Two under torchrun show how much.
    """
    paces = measured(effort, folder)
    for what, kind, goal, note in (
        ("training step", "step_s", GOAL, "compact network, 128x128, 2 gloo workers of one thread"),
        ("training step, quickest tenth", "quick_s", None, ""),
        ("CPU time of a training step", "cpu_s", None, "of all processes, Ray's own among them"),
    ):
        ray, torchrun, again = (
            [1e3 * getattr(pace, kind) for pace in paces[name]] for name in (RAY, TORCHRUN, AGAIN)
        )
        peer = "torchrun, same code"
        yield Comparison(f"{what}, Ray Train", "ms", ray, peer, torchrun, goal, note)
        yield Comparison(f"{what}, another torchrun", "ms", again, peer, torchrun)


def measured(effort: Effort, folder: Path) -> dict[str, list[Pace]]:
    """Paces of each round, by group."""
    store = small_store(folder / "store.zarr", crop_size=128)
    paces: dict[str, list[Pace]] = defaultdict(list)
    for number in track(range(effort.rounds), "rounds"):
        configs = {
            name: run_config(
                f"{name}-{number}",
                folder,
                store,
                "scaling.num_workers=2",
                "training.batch_size=2",
                "training.log_every_steps=5",
            )
            for name in (RAY, TORCHRUN, AGAIN)
        }
        turns = _turns(configs, folder, 1 if effort.quick else TURNS)
        for name, found in turns.items():
            paces[name].append(Pace(*np.median(found, axis=0).tolist()))
    return paces


def _turns(configs: Mapping[str, Config], folder: Path, number: int) -> dict[str, list[Pace]]:
    """Paces in so many turns of each group."""
    paces: dict[str, list[Pace]] = defaultdict(list)
    with ExitStack() as running:
        commands = {}
        for name in random.sample(list(configs), len(configs)):
            config = configs[name]
            command = Command(train_command(config, torchrun=name != RAY), folder / f"{name}.log")
            commands[name] = running.enter_context(command)
            command.wait_until(_has_trained(config), "steps")
            command.hold()
        for _ in range(number):
            for name in random.sample(list(configs), len(configs)):
                paces[name].append(_turn(commands[name], configs[name]))
    return paces


def _has_trained(config: Config) -> Callable[[], bool]:
    return lambda: any(window.step >= WARM_UP_STEPS for window in windows(config))


def _turn(command: Command, config: Config) -> Pace:
    cpu_before_s = command.cpu_s()
    started_s = time.time()
    command.resume()
    time.sleep(TURN_S)
    command.hold()
    ended_s = time.time()
    cpu_share = (command.cpu_s() - cpu_before_s) / (ended_s - started_s)
    # The first window began before the turn, and the last ends in the next.
    whole = [w for w in windows(config) if w.started_s > started_s and w.ended_s < ended_s]
    quick_s, step_s = np.quantile([window.step_s for window in whole], (0.1, 0.5)).tolist()
    return Pace(step_s, quick_s, cpu_share * step_s)
