"""Which chunks of an array of HDF5 or zarr its file holds: the others read as zeros or the like.

They were never written, as where an acquisition ended early, are lost, or were left out as empty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

Region = tuple[slice, ...]
"""Part of an array, a slice for each dimension."""


def is_unwritten(dataset: Any) -> bool:
    """Whether there are no data behind a data set of HDF5 or an array of zarr.

    It would read as zeros, however many it declares.
    """
    if hasattr(dataset, "nchunks_initialized"):
        return not dataset.nchunks_initialized
    is_elsewhere = dataset.is_virtual or dataset.external
    return not (is_elsewhere or dataset.id.get_storage_size())


def absent_regions(array: Any) -> list[Region]:
    """The chunks that are not in the file, or the shards of zarr; none of an array in memory."""
    if hasattr(array, "nchunks_initialized"):
        if array.shards is None and array.nchunks_initialized == array.nchunks:
            return []
        side = array.shards or array.chunks
        there = set(_there_of_zarr(array, side))
    elif getattr(array, "chunks", None) and hasattr(array, "id") and not array.is_virtual:
        side = array.chunks
        there = set()
        array.id.chunk_iter(lambda chunk: there.add(chunk.chunk_offset))
    else:
        return []
    starts = itertools.product(
        *(range(0, size, step) for size, step in zip(array.shape, side, strict=True))
    )
    return [
        tuple(slice(first, first + step) for first, step in zip(start, side, strict=True))
        for start in starts
        if start not in there
    ]


def _there_of_zarr(array: Any, side: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where the chunks or shards begin that are there."""
    from zarr.core.sync import sync

    numbers = [math.ceil(size / step) for size, step in zip(array.shape, side, strict=True)]
    for place in itertools.product(*map(range, numbers)):
        key = "/".join(filter(None, (array.path, array.metadata.encode_chunk_key(place))))
        if sync(array.store.exists(key)):
            yield tuple(number * step for number, step in zip(place, side, strict=True))
