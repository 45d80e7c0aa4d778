"""Which chunks of an array of HDF5 or zarr its file holds: the others read as zeros or the like.

They were never written, as where an acquisition ended early, are lost, or were left out as empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
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


def absent_regions(array: Any, chosen: Mapping[int, int] = MappingProxyType({})) -> list[Region]:
    """The chunks that are not in the file, or the shards of zarr; none of an array in memory.

    Args:
        array: Of HDF5, zarr or NumPy.
        chosen: Indices along some dimensions; chunks that have none of these elements are left out.
    """
    if hasattr(array, "nchunks_initialized"):
        if array.shards is None and array.nchunks_initialized == array.nchunks:
            return []
        side = array.shards or array.chunks
        starts = _starts(array.shape, side, chosen)
        there = {start for start in starts if _is_there(array, side, start)}
    elif getattr(array, "chunks", None) and hasattr(array, "id") and not array.is_virtual:
        side = array.chunks
        starts = _starts(array.shape, side, chosen)
        there = set()
        array.id.chunk_iter(lambda chunk: there.add(chunk.chunk_offset))
    else:
        return []
    return [
        tuple(slice(first, first + step) for first, step in zip(start, side, strict=True))
        for start in starts
        if start not in there
    ]


def _starts(
    shape: Sequence[int], side: Sequence[int], chosen: Mapping[int, int]
) -> list[tuple[int, ...]]:
    """Where the chunks begin that have elements of the chosen indices."""
    along = [range(0, size, step) for size, step in zip(shape, side, strict=True)]
    for i, index in chosen.items():
        along[i] = along[i][index // side[i] :][:1]
    return list(itertools.product(*along))


def _is_there(array: Any, side: Sequence[int], start: tuple[int, ...]) -> bool:
    """Whether the chunk or shard of zarr that begins there is in the store."""
    from zarr.core.sync import sync

    place = tuple(first // step for first, step in zip(start, side, strict=True))
    key = "/".join(filter(None, (array.path, array.metadata.encode_chunk_key(place))))
    return bool(sync(array.store.exists(key)))
