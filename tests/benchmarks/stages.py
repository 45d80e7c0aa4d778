"""Stages of a batch: reading, encoding, network, writing, and what is left for the engine."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch

from stem_complete.inference import Outputs, load_completer, predictor
from stem_complete.serving.batch import complete_files
from stem_complete.serving.batch.files import CompletedFiles
from stem_complete.serving.batch.shards import CompletionArrays
from stem_complete.serving.batch.worker import Worker

from . import Setting
from .batch import write_scans
from .report import Comparison, Goal

STAGES: dict[str, list[tuple[Any, str]]] = {
    "read and hash": [(Worker, "_begin")],
    "encode": [(predictor, "analyse")],
    "network": [(predictor, "run_network")],
    "write": [(CompletedFiles, "write"), (CompletionArrays, "write")],
}
"""Functions of each stage; none calls another one."""


def run(setting: Setting) -> Iterator[Comparison]:
    """Time of each stage of a scan beside that of the whole batch."""
    side, num = (64, 4) if setting.quick else (512, 24)
    scans = write_scans(setting.folder / "scans.zarr", num, side)
    model = load_completer(device=setting.device)
    for name, suffix in (("TIFF", ""), ("shards", ".zarr")):
        found: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "rest", "all")}
        for number in range(setting.rounds):
            output = setting.folder / f"out{number}{suffix}"
            spent = dict.fromkeys(STAGES, 0.0)
            started = clock(setting.device)
            with timed(spent, setting.device):
                complete_files([scans], model, output, outputs=Outputs())
            spent["all"] = clock(setting.device) - started
            spent["rest"] = spent["all"] - sum(spent[stage] for stage in STAGES)
            for stage, seconds in spent.items():
                found[stage].append(1000 * seconds / num)
            shutil.rmtree(output)
        for stage in (*STAGES, "rest"):
            yield Comparison(
                f"{stage}, of a scan of {side}x{side} px to {name}",
                "ms",
                found[stage],
                "the whole batch",
                found["all"],
                # The engine: manifest, claims, units; and what the completion does around both.
                Goal("<=", 0.05) if stage == "rest" else None,
            )


def clock(device: torch.device) -> float:
    """CPU time of this process [s]; with a GPU the time, when the GPU has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


@contextmanager
def timed(spent: dict[str, float], device: torch.device) -> Iterator[None]:
    """Adds what the functions of each stage take meanwhile."""

    def around(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def measured(*arguments: Any, **options: Any) -> Any:
            started = clock(device)
            try:
                return function(*arguments, **options)
            finally:
                spent[stage] += clock(device) - started

        return measured

    with ExitStack() as undo:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                function = getattr(owner, name)
                setattr(owner, name, around(stage, function))
                undo.callback(setattr, owner, name, function)
        yield
