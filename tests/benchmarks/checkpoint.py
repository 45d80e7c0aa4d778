"""What a checkpoint of the paper's network costs training."""

import itertools
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import save_file

from stem_complete.training import Checkpoints

from . import Setting
from .report import Comparison, Goal
from .steps import problem, training_step

CHECKPOINT_EVERY_S = 600.0


def run(setting: Setting) -> Iterator[Comparison]:
    """How long a save holds training up, and how much slower steps are beside its write.

    The folder needs room for four checkpoints.
    """
    given = problem(quick=setting.quick, device=setting.device)
    moments = {
        f"{name}.{kind}": torch.rand_like(parameter)  # pages of zeros would be cheap to copy
        for name, parameter in given.task.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq")
    }
    state = {"task": given.task.state_dict(), "optimizer": moments}
    seconds = time_saves(setting.folder / "run", state, setting)
    copy = time_copies(setting.folder, state, setting.rounds)
    size = sum(tensor.nbytes for part in state.values() for tensor in part.values())
    yield Comparison(
        "training waits for a save",
        "s",
        seconds["save"],
        "1 % of the time between checkpoints every 10 minutes",
        [0.01 * CHECKPOINT_EVERY_S] * setting.rounds,
        Goal("<=", 1.0),
    )
    yield Comparison(
        "write behind it", "s", seconds["write"], f"copy of a file of {size / 1e9:.3g} GB", copy
    )
    yield Comparison(
        "step beside a write",
        "s",
        seconds["step beside a write"],
        "alone",
        seconds["step alone"],
        note="compact network, 128x128",
    )


def time_saves(folder: Path, state: dict, setting: Setting) -> dict[str, list[float]]:
    """Seconds of saves in the background, and of steps beside them."""
    step = training_step(problem(quick=True, device=setting.device))
    seconds: dict[str, list[float]] = defaultdict(list)
    numbers = itertools.count()
    with closing(Checkpoints(folder, keep=1)) as checkpoints:

        def save() -> None:
            checkpoints.save(next(numbers), state, config={}, metrics={}, score=None)

        save()  # allocates host memory
        checkpoints.wait()
        step()
        for _ in range(setting.rounds):
            seconds["save"].append(duration(save))
            seconds["write"].append(duration(checkpoints.wait))
        # In turn, as other programs on the machine come and go.
        for _ in range(setting.rounds):
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


def time_copies(folder: Path, state: dict, rounds: int) -> list[float]:
    """Seconds of a copy of the same bytes, to the disk."""
    source, target = folder / "source", folder / "target"
    tensors = {
        f"{part}.{name}": tensor.cpu().contiguous()
        for part, tensors in state.items()
        for name, tensor in tensors.items()
    }
    save_file(tensors, source)

    def copy() -> None:
        shutil.copyfile(source, target)
        with target.open("rb") as opened:
            os.fsync(opened.fileno())

    found = []
    for _ in range(rounds):
        found.append(duration(copy))
        target.unlink()
    return found


def duration(action: Callable[[], object]) -> float:
    """Of a call [s]."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
