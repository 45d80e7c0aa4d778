"""Where benchmarks run."""

from __future__ import annotations

from collections.abc import Callable

import torch

NO_GPU = "no CUDA device"


def devices() -> list[torch.device]:
    """The CPU, and the GPU if there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def best_device() -> torch.device:
    """The GPU if there is one."""
    return devices()[-1]


def named(device: torch.device) -> str:
    """As it stands in a row of the table."""
    return "GPU" if device.type == "cuda" else "CPU"


def waited(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """`function`, and then until the device has done what it was given."""

    def call() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call
