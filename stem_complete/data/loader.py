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

from stem_complete.data.read_ahead import read_ahead
from stem_complete.data.sampler import global_batch, worker_positions
from stem_complete.data.store.store import MicrographStore


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
) -> Iterator[ImageBatch]:
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
    crops = store.indices("train")
    places = worker_positions(rank, world_size, batch_size, micro_batch_size)

    def micro_batches() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for step in steps:
            batch = crops[global_batch(len(crops), seed, step, batch_size)]
            for positions in places:
                yield batch[positions], positions

    plan, requests = tee(micro_batches())
    wanted = (numbers for numbers, _ in requests)
    with closing(_read(store, wanted, num_processes, micro_batch_size, pin_memory)) as read:
        for (numbers, positions), images in zip(plan, read, strict=True):
            parts = images.unsqueeze(1), torch.from_numpy(numbers), torch.from_numpy(positions)
            yield ImageBatch(*(part.pin_memory() for part in parts) if pin_memory else parts)


def _read(
    store: MicrographStore,
    requests: Iterator[NDArray[np.int64]],
    num_processes: int,
    request_size: int,
    pin_memory: bool,
) -> Generator[Tensor]:
    """Images [b, h, w] of each request; those that will be pinned are lost with the next."""
    if not num_processes:
        for crops in requests:
            yield torch.from_numpy(store.read(crops))
        return
    with closing(read_ahead(store, requests, num_processes, request_size)) as read:
        for images in read:
            # The next ones come into the same memory.
            yield torch.from_numpy(images if pin_memory else images.copy())
