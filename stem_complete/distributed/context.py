"""Where a worker stands: its rank, the world's size, its device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

COLLECTIVE_TIMEOUT = timedelta(minutes=5)
"""A collective that takes longer is stuck; its rank fails instead of waiting for ever."""


@dataclass(frozen=True)
class WorkerContext:
    """One worker of a group; by default the only one, on the CPU."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a torch.device is immutable

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks for the group: writes, records, draws."""
        return self.rank == 0


def under_torchrun() -> bool:
    """Whether torchrun, or something that sets its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def torchrun_context(*, use_gpu: bool) -> Iterator[WorkerContext]:
    """Context of a process that torchrun started, or of a plain one.

    Joins the process group that torchrun's environment variables describe, and leaves it at the
    end.
    """
    launched = under_torchrun()
    if launched:
        dist.init_process_group("nccl" if use_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if launched else (0, 1)
        device = torch.device("cpu")
        if use_gpu:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        yield WorkerContext(rank, world_size, device)
    finally:
        if launched:
            dist.destroy_process_group()
