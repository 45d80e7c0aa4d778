"""Which example stands where: a function of (seed, step, position), without state.

Position p of step s is place `s * batch_size + p` of an endless sequence that runs through a new
random order of all examples in every epoch. Any worker can work out any part of it, so a run can
stop at any step and go on with another number of workers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def global_batch(num_examples: int, seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
    """Examples of the global batch at `step`, [batch_size], each in [0, num_examples)."""
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, got {num_examples}")
    places = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, within = np.divmod(places, num_examples)
    orders = {
        int(epoch): epoch_order(num_examples, seed, int(epoch)) for epoch in np.unique(epochs)
    }
    return np.array(
        [orders[int(epoch)][place] for epoch, place in zip(epochs, within, strict=True)],
        dtype=np.int64,
    )


@lru_cache(maxsize=4)
def epoch_order(num_examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of the examples in one epoch, a permutation of [0, num_examples)."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    order = generator.permutation(num_examples).astype(np.int64)
    order.flags.writeable = False
    return order


def worker_positions(
    rank: int, world_size: int, batch_size: int, micro_batch_size: int
) -> list[NDArray[np.int64]]:
    """Positions in the global batch of one worker's micro-batches, in order."""
    share = batch_size // world_size
    if batch_size % world_size or share % micro_batch_size:
        raise ValueError(
            f"a batch of {batch_size} does not divide into micro-batches of {micro_batch_size} "
            f"on {world_size} workers"
        )
    positions = rank * share + np.arange(share, dtype=np.int64)
    return np.split(positions, share // micro_batch_size)


def evenly_spread(indices: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """At most `number` of `indices`, at equal distances: crops of one source are neighbours."""
    if len(indices) <= number:
        return indices
    return indices[np.arange(number) * len(indices) // number]
