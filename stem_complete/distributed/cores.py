"""How many cores this process may use, and how many threads that leaves to a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def num_cores() -> int:
    """Cores that this process may use: those it may run on, or fewer by its container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [limit for limit in _container_limits() if limit > 0]
    return max(1, min([cores or 1, *(round(limit) for limit in limits)]))


def set_threads(num_workers: int, *, at_least: int = 1) -> None:
    """Gives torch as many threads as each of so many workers of this host has cores.

    Torch itself takes all cores of the host, in each worker and beyond a container's limit, where
    they wait for one another. OMP_NUM_THREADS in the environment has the last word.

    Args:
        num_workers: Workers on this host.
        at_least: Threads that the config gives to a worker.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(at_least, num_cores() // num_workers))


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes with one thread in the block: sums come out the same to the bit on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _container_limits() -> list[float]:
    """CPUs that this process's control groups allow."""
    limits = []
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            number, controllers, path = line.split(":", maxsplit=2)
            if number == "0":  # version 2: a limit holds for all groups below
                group = _CGROUPS / path.lstrip("/")
                folders = [group, *group.parents][: len(group.parts) - len(_CGROUPS.parts) + 1]
                limits += [_quota(folder / "cpu.max") for folder in folders]
            elif "cpu" in controllers.split(","):
                for folder in (_CGROUPS / "cpu" / path.lstrip("/"), _CGROUPS / "cpu"):
                    limits.append(_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return limits


def _quota(*files: Path) -> float:
    """CPUs that a quota and its period allow; 0 is no limit."""
    with suppress(OSError, ValueError):
        quota, period = " ".join(file.read_text() for file in files).split()
        return float(quota) / float(period) if quota not in ("max", "-1") else 0.0
    return 0.0
