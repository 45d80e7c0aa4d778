"""Measures what a checkpoint of the 106 M-parameter network costs training.

In one run: how long `save` holds training up, the first time and later; how long the write takes
behind it; how long training would wait for `torch.save`, for safetensors' `save_file` and for a
copy of the same bytes; and how much slower training steps are while a checkpoint is written.

    python scripts/checkpoint_stall.py --folder /data/runs
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stem_complete.config import load_config
from stem_complete.training import Checkpoints, build_task
from stem_complete.training.state import build_optimizer

State = dict[str, dict[str, Tensor]]


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where to write; needs room for 4 checkpoints"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--device", default="cpu", help="where the network is: cpu or cuda")
    parser.add_argument("--preset", default="paper", help="size of the network: paper or compact")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        values = measure(Path(folder), arguments.preset, arguments.device, arguments.repeats)
    print(json.dumps(values, indent=2) if arguments.json else table(values))


def measure(folder: Path, preset: str, device: str, repeats: int) -> dict[str, Any]:
    """All figures; those in `seconds` are lists of one value per repeat."""
    state = random_state(preset, device)
    step = training_step(device)
    for _ in range(5):
        step()
    memory = peak_memory()
    seconds, size = time_saves(folder, state, step, repeats)
    memory = peak_memory() - memory
    seconds |= time_plain_writes(folder, state, repeats)
    alone, beside = seconds["training step, alone"], seconds["training step, beside a write"]
    return {
        "preset": preset,
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "safetensors": version("safetensors"),
        "checkpoint_bytes": size,
        "peak_host_memory_added_bytes": memory,
        "step_slowdown": statistics.median(beside) / statistics.median(alone),
        "seconds": seconds,
    }


def time_saves(
    folder: Path, state: State, step: Callable[[], None], repeats: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of saving in the background, and the size of a checkpoint [bytes]."""
    seconds: dict[str, list[float]] = defaultdict(list)
    numbers = itertools.count()
    with Checkpoints(folder, keep=1) as checkpoints:

        def save() -> None:
            checkpoints.save(next(numbers), state, config={}, metrics={}, score=None)

        seconds["save, first"].append(duration(save))
        checkpoints.wait()
        for _ in range(repeats):
            seconds["save, later"].append(duration(save))
            seconds["write, no steps beside it"].append(duration(checkpoints.wait))
        # In turns, as other programs on the machine come and go.
        for _ in range(repeats):
            save()
            writer = threading.Thread(target=checkpoints.wait)
            started = time.perf_counter()
            writer.start()
            beside = 0
            while writer.is_alive():
                seconds["training step, beside a write"].append(duration(step))
                beside += 1
            seconds["write, beside steps"].append(time.perf_counter() - started)
            seconds["training step, alone"] += [duration(step) for _ in range(beside)]
        (newest,) = checkpoints.folders()
        return seconds, sum(file.stat().st_size for file in newest.iterdir())


def time_plain_writes(folder: Path, state: State, repeats: int) -> dict[str, list[float]]:
    """Seconds that training would wait for writes to the disk in its own thread."""
    source, file = folder / "source", folder / "file"
    save_file(flat(state), source)
    writes: dict[str, Callable[[], object]] = {
        "torch.save": lambda: torch.save(state, file),
        "safetensors save_file": lambda: save_file(flat(state), file),
        "copy of a file of that size": lambda: shutil.copyfile(source, file),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, write in writes.items():
            started = time.perf_counter()
            write()
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            seconds[name].append(time.perf_counter() - started)
            file.unlink()
    return seconds


def random_state(preset: str, device: str) -> State:
    """What a run of the network saves; pages of zeros would be cheap to copy."""
    config = load_config([], ["name=stall", "data.store=none", f"model.preset={preset}"])
    task = build_task(config, (512, 512)).to(device)
    optimizer = build_optimizer(task, config)
    moments = {
        f"{name}.{kind}": torch.rand_like(value)
        for name, parameter in task.named_parameters()
        for kind, value in optimizer.state[parameter].items()
    }
    return {"task": task.state_dict(), "optimizer": moments}


def training_step(device: str) -> Callable[[], None]:
    """A forward and backward pass of the compact network on one small scan."""
    config = load_config([], ["name=stall", "data.store=none", "model.preset=compact"])
    task = build_task(config, (128, 128)).to(device)
    images = torch.rand(1, 1, 128, 128, device=device)
    positions = torch.zeros(1, dtype=torch.int64, device=device)

    def step() -> None:
        task.zero_grad(set_to_none=True)
        task(images, 0, positions).loss.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


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


def peak_memory() -> int:
    """Of this process so far [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_name() -> str:
    """As the operating system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def table(values: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = values["seconds"]
    lines = ["| | median [s] | min [s] | max [s] | n |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {statistics.median(row):.3f} | {min(row):.3f} | {max(row):.3f} | {len(row)} |"
        for name, row in rows.items()
    ]
    return "\n".join(
        (
            *lines,
            "",
            f"checkpoint: {values['checkpoint_bytes'] / 1e9:.2f} GB ({values['preset']} network)",
            f"peak host memory added by saving: {values['peak_host_memory_added_bytes'] / 1e9:.2f}"
            " GB",
            f"steps beside a write: {values['step_slowdown']:.2f} times as long",
            f"on {values['device']}, {values['cpus']} CPUs, torch {values['torch']}, "
            f"safetensors {values['safetensors']}",
        )
    )


if __name__ == "__main__":
    main()
