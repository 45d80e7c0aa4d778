"""What a checkpoint of the paper's network costs training."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stem_complete.benchmarks.measure import Comparison, Effort, Goal
from stem_complete.benchmarks.steps import Step, problem, training_step
from stem_complete.training import Checkpoints
from stem_complete.training.checkpoint import State
from stem_complete.training.state import build_optimizer

CHECKPOINT_EVERY_S = 600.0

Seconds = dict[str, list[float]]


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """How long saving holds training up, and how much slower steps are beside the write.

    `folder` needs room for four checkpoints.
    """
    state = random_state(quick=effort.quick)
    seconds = time_saves(folder / "run", state, effort)
    seconds |= time_plain_writes(folder, state, effort.rounds)
    size = sum(tensor.nbytes for part in state.values() for tensor in part.values())
    copy, name = seconds["copy"], f"copy of a file of {size / 1e9:.3g} GB"
    stall = seconds["save"]
    yield Comparison("first save", "s", seconds["first save"], note="allocates host memory")
    yield Comparison(
        "training waits for a save",
        "s",
        stall,
        "1 % of the time between checkpoints each 10 minutes",
        [0.01 * CHECKPOINT_EVERY_S] * len(stall),
        Goal("<=", 1.0),
    )
    yield Comparison("training waits for a save", "s", stall, name, copy)
    yield Comparison("write behind it", "s", seconds["write"], name, copy)
    yield Comparison("torch.save, training waiting", "s", seconds["torch.save"], name, copy)
    yield Comparison(
        "safetensors' save_file, training waiting", "s", seconds["save_file"], name, copy
    )
    yield Comparison(
        "step beside a write",
        "s",
        seconds["step beside a write"],
        "alone",
        seconds["step alone"],
        note="compact network, 128x128",
    )


def time_saves(folder: Path, state: State, effort: Effort) -> Seconds:
    """Seconds of saving in the background."""
    step: Step = training_step(problem(quick=True))
    seconds: Seconds = defaultdict(list)
    numbers = itertools.count()
    with Checkpoints(folder, keep=1) as checkpoints:

        def save() -> None:
            checkpoints.save(next(numbers), state, config={}, metrics={}, score=None)

        seconds["first save"].append(duration(save))
        checkpoints.wait()
        step()
        for _ in range(effort.rounds):
            seconds["save"].append(duration(save))
            seconds["write"].append(duration(checkpoints.wait))
        # In turns, as other programs on the machine come and go.
        for _ in range(effort.rounds):
            save()
            writer = threading.Thread(target=checkpoints.wait)
            writer.start()
            beside = [duration(step)]
            while writer.is_alive():
                beside.append(duration(step))
            seconds["step beside a write"].append(sum(beside) / len(beside))
            alone = [duration(step) for _ in beside]
            seconds["step alone"].append(sum(alone) / len(alone))
    return seconds


def time_plain_writes(folder: Path, state: State, rounds: int) -> Seconds:
    """Seconds that training would wait for writes in its own thread, to the disk."""
    source, file = folder / "source", folder / "file"
    save_file(flat(state), source)
    writes: dict[str, Callable[[], object]] = {
        "torch.save": lambda: torch.save(state, file),
        "save_file": lambda: save_file(flat(state), file),
        "copy": lambda: shutil.copyfile(source, file),
    }
    seconds: Seconds = defaultdict(list)
    for _ in range(rounds):
        for name, write in writes.items():
            started = time.perf_counter()
            write()
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            seconds[name].append(time.perf_counter() - started)
            file.unlink()
    return seconds


def random_state(*, quick: bool) -> State:
    """What a run of the network saves; pages of zeros would be cheap to copy."""
    config, task, _ = problem(quick=quick)
    optimizer = build_optimizer(task, config)
    moments = {
        f"{name}.{kind}": torch.rand_like(value)
        for name, parameter in task.named_parameters()
        for kind, value in optimizer.state[parameter].items()
    }
    return {"task": task.state_dict(), "optimizer": moments}


def flat(state: State) -> dict[str, Tensor]:
    """All tensors, contiguous, as `save_file` wants them."""
    return {
        f"{part}.{name}": tensor.cpu().contiguous()
        for part, tensors in state.items()
        for name, tensor in tensors.items()
    }


def duration(action: Callable[[], object]) -> float:
    """Of a call [s]."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
