"""Micro-batches of one worker, read from the store in the sampler's order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stem_complete.data.sampler import global_batch, worker_positions
from stem_complete.data.store import MicrographStore


class ImageBatch(NamedTuple):
    """Part of a global batch.

    Attributes:
        images: Micrographs in [-1, 1], [b, 1, h, w].
        crops: Their numbers in the store, [b] int64.
        positions: Their positions in the global batch, [b] int64.
    """

    images: Tensor
    crops: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> ImageBatch:
        """The batch on `device`."""
        return ImageBatch(*(part.to(device, non_blocking=True) for part in self))


class _Plan(Sampler[tuple[NDArray[np.int64], NDArray[np.int64]]]):
    """(crops, positions) of one worker's micro-batches, from one step to another."""

    def __init__(
        self,
        crops: NDArray[np.int64],
        positions: list[NDArray[np.int64]],
        *,
        seed: int,
        batch_size: int,
        steps: range,
    ) -> None:
        self.crops, self.positions = crops, positions
        self.seed, self.batch_size, self.steps = seed, batch_size, steps

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for step in self.steps:
            batch = self.crops[global_batch(len(self.crops), self.seed, step, self.batch_size)]
            for positions in self.positions:
                yield batch[positions], positions

    def __len__(self) -> int:
        return len(self.steps) * len(self.positions)


class _Reader(Dataset[ImageBatch]):
    """Reads the crops of a micro-batch. The store opens its files where it is used."""

    def __init__(self, store: MicrographStore) -> None:
        self.store = store

    def __getitem__(self, item: tuple[NDArray[np.int64], NDArray[np.int64]]) -> ImageBatch:
        crops, positions = item
        images = torch.from_numpy(self.store.read(crops)).unsqueeze(1)
        return ImageBatch(images, torch.from_numpy(crops), torch.from_numpy(positions))


def training_batches(
    store: MicrographStore,
    *,
    steps: range,
    seed: int,
    batch_size: int,
    micro_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_processes: int = 0,
    pin_memory: bool = False,
) -> DataLoader[ImageBatch]:
    """Micro-batches of worker `rank` for `steps`, in order; as many a step on every worker.

    Args:
        store: Micrographs; those of its training split are used.
        steps: Steps to load, for example from the step at which a run resumes to its last.
        seed: Seed of the order of the examples.
        batch_size: Examples a step, over all workers.
        micro_batch_size: Examples a micro-batch.
        rank: This worker.
        world_size: Number of workers.
        num_processes: Processes that read ahead; with 0 this process reads when asked.
        pin_memory: Whether the images go to page-locked memory, for copies to a GPU.
    """
    plan = _Plan(
        store.indices("train"),
        worker_positions(rank, world_size, batch_size, micro_batch_size),
        seed=seed,
        batch_size=batch_size,
        steps=steps,
    )
    return DataLoader(
        _Reader(store),
        batch_size=None,
        sampler=plan,
        num_workers=num_processes,
        # zarr reads on threads of its own: a forked process can inherit a lock that is never freed.
        multiprocessing_context="spawn" if num_processes else None,
        pin_memory=pin_memory,
        worker_init_fn=partial(_end_with, os.getpid()) if num_processes else None,
    )


def _end_with(parent: int, _worker: int) -> None:
    """Ends a reader whose worker was killed while it started: torch looks only from then on."""
    if os.getppid() != parent:
        os._exit(1)
