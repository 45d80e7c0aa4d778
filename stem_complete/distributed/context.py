"""A worker's rank, number of workers, and device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

LONG_PHASE_S = 1800.0
"""Longest time that all workers may wait for slow storage or validation [s]."""

PROCESS_GROUP_TIMEOUT_S = 1.5 * LONG_PHASE_S
"""Timeout of torch's collectives [s]. The watchdog's comes before it, and its report says more."""


@dataclass(frozen=True)
class WorkerContext:
    """One worker of a group; by default the only one, on the CPU.

    Attributes:
        rank: Its number among all workers.
        world_size: Number of workers.
        device: Device that it trains on.
        local_rank: Its number among the workers of its node.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a torch.device is immutable
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the worker that writes, records and draws for all."""
        return self.rank == 0


def under_torchrun() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def torchrun_context(*, use_gpu: bool) -> Iterator[WorkerContext]:
    """Context of a process that torchrun started, or of a single process.

    Joins the process group that torchrun's environment variables describe, over NCCL if it trains
    on this process's GPU, and leaves it at the end of the block.
    """
    launched = under_torchrun()
    if launched:
        backend = "nccl" if use_gpu else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=PROCESS_GROUP_TIMEOUT_S))
    try:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if launched else (0, 1)
        local_rank = int(os.environ.get("LOCAL_RANK", 0)) if launched else 0
        device = torch.device("cpu")
        if use_gpu:
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        yield WorkerContext(rank, world_size, device, local_rank)
    finally:
        if launched:
            dist.destroy_process_group()
