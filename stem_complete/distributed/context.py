"""Where a worker stands: its rank, the world's size, its device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

LONG_PHASE_S = 1800.0
"""What all workers may have to wait for, a slow storage or validation, takes no longer."""

PROCESS_GROUP_TIMEOUT_S = 1.5 * LONG_PHASE_S
"""Timeout of torch's collectives. The watchdog is there before it, and can tell more."""


@dataclass(frozen=True)
class WorkerContext:
    """One worker of a group; by default the only one, on the CPU.

    Attributes:
        rank: Among all workers.
        world_size: Number of all workers.
        device: Where it trains.
        local_rank: Among the workers of its node.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a torch.device is immutable
    local_rank: int = 0

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

    Args:
        use_gpu: Whether it trains on this process's GPU, over NCCL.
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
