"""Micro-batches of one worker, read from the store in the sampler's order."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import tee
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from stem_complete.data.read_ahead import read_ahead
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


class _Batches(IterableDataset[ImageBatch]):
    """One worker's micro-batches, from one step to another."""

    def __init__(
        self,
        store: MicrographStore,
        positions: list[NDArray[np.int64]],
        *,
        steps: range,
        seed: int,
        batch_size: int,
        num_processes: int,
        pin_memory: bool,
    ) -> None:
        self.store, self.positions = store, positions
        self.steps, self.seed, self.batch_size = steps, seed, batch_size
        self.num_processes, self.pin_memory = num_processes, pin_memory

    def __iter__(self) -> Iterator[ImageBatch]:
        plan, requests = tee(self._plan())
        with closing(self._read(crops for crops, _ in requests)) as images_of:
            for (crops, positions), images in zip(plan, images_of, strict=True):
                numbers = torch.from_numpy(crops), torch.from_numpy(positions)
                batch = ImageBatch(images.unsqueeze(1), *numbers)
                yield ImageBatch(*(p.pin_memory() for p in batch)) if self.pin_memory else batch

    def _plan(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(crops, positions) of the micro-batches."""
        crops = self.store.indices("train")
        for step in self.steps:
            batch = crops[global_batch(len(crops), self.seed, step, self.batch_size)]
            for positions in self.positions:
                yield batch[positions], positions

    def _read(self, requests: Iterator[NDArray[np.int64]]) -> Generator[Tensor]:
        """Images [b, h, w] of each request."""
        if self.num_processes:
            size = len(self.positions[0])
            for images in read_ahead(self.store, requests, self.num_processes, size):
                # The next ones come into the same memory.
                yield torch.from_numpy(images if self.pin_memory else images.copy())
        else:
            for crops in requests:
                yield torch.from_numpy(self.store.read(crops))


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
    batches = _Batches(
        store,
        worker_positions(rank, world_size, batch_size, micro_batch_size),
        steps=steps,
        seed=seed,
        batch_size=batch_size,
        num_processes=num_processes,
        pin_memory=pin_memory,
    )
    return DataLoader(batches, batch_size=None)
