"""Random crops of a store: ours beside other readers of the same files, and beside `pread`.

On one core, with the store in memory (warm) and not (cold), compressed and not. Every reader gives
crops in [-1, 1], float32, as the network takes them: those of peers are scaled here. Ours also
compares them with what the store says of them; checksums are checked by all but zarrs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from stem_complete.benchmarks.ingest import (
    CROP_BYTES,
    CROP_SIZE,
    files_of,
    sync,
    write_micrographs,
)
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.layout import open_group
from stem_complete.data.store.shards import COMPRESSIONS, Compression
from stem_complete.data.store.store import MicrographStore

Reader = Callable[[NDArray[np.int64]], Any]
"""Reads the crops of these numbers."""

_PAGE = 4096  # bytes
_OURS, _PREAD = "MicrographStore.read", "pread of as many bytes as the pixels have"
# What an order would read that goes through whole shards and mixes crops within a window.
_IN_TURN = "ours, crops that follow each other"
_ZARR_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_PEERS = ("zarr-python", "zarrs", "tensorstore")


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Crops per second of one core, from memory and from the disk, by compression."""
    micrographs = write_micrographs(folder / "micrographs", 1 if effort.quick else 24)
    for compression in COMPRESSIONS:
        path = folder / f"{compression}.zarr"
        ingest(micrographs, path, compression=compression)
        sync(path)
        yield from _compared(path, compression, effort)


def _compared(path: Path, compression: Compression, effort: Effort) -> Iterator[Comparison]:
    num_read = 4 if effort.quick else 32
    files = files_of(path)
    rng = np.random.default_rng(0)
    with ExitStack() as opened:
        opened.enter_context(one_core())
        store = MicrographStore(path)
        peers = {name: read for name in _PEERS if (read := _peer(name, path))}
        _check(store, peers)
        pread = opened.enter_context(_pread(path / "images" / "c", rng))

        def in_turn(_: NDArray[np.int64]) -> None:
            store.read(rng.integers(len(store) - num_read + 1) + np.arange(num_read))

        readers: dict[str, Reader] = {_OURS: store.read, _PREAD: pread, **peers, _IN_TURN: in_turn}
        size = sum(file.stat().st_size for file in files) / (len(store) * CROP_BYTES)
        facts = f"{num_read} of {len(store)} crops, stored in {size:.0%} of the bytes"
        for cache in ("warm", "cold"):
            cold = files if cache == "cold" else []
            what, note = f"random crops, {compression}, {cache}", f"{facts}, on one core"
            if cold and not forget(files):
                note += ", files may have stayed in memory: perhaps not cold"
            rates = _rates(readers, len(store), num_read, cold, effort.rounds, rng)
            for name in (_PREAD, *peers, _IN_TURN):
                goal = Goal(">=", 1.0) if name in peers else None
                yield Comparison(what, "crops/s", rates[_OURS], name, rates[name], goal, note)
            for name in _PEERS:
                if name not in peers:
                    yield Comparison(what, "crops/s", (), note=f"{name} is not installed")


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps all threads of this process, and those they start, on one core."""
    cores = os.sched_getaffinity(0)
    _pin({max(cores)})
    try:
        yield
    finally:
        _pin(cores)


def forget(files: Sequence[Path]) -> bool:
    """Drops files from the page cache and tells whether that is known to have worked.

    They must be on the disk: what is still to be written stays.
    """
    drop(files)
    largest = max(files, key=lambda file: file.stat().st_size)
    with largest.open("rb") as opened:
        try:
            os.preadv(opened.fileno(), [bytearray(_PAGE)], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # it would have to wait for the disk
            return True
        except OSError:  # file systems in memory, among others, do not tell
            return False
    return False


def drop(files: Sequence[Path]) -> None:
    """Asks the system to drop files from the page cache."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _rates(
    readers: dict[str, Reader],
    num_crops: int,
    num_read: int,
    cold: Sequence[Path],
    rounds: int,
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """Crops per second of each reader in each round; `cold` are the files to drop before."""
    rates: dict[str, list[float]] = {name: [] for name in readers}

    def read(name: str) -> None:
        indices = rng.permutation(num_crops)[:num_read]
        drop(cold)
        # Timed here, as dropping takes as long as reading.
        started = time.perf_counter()
        readers[name](indices)
        rates[name].append(num_read / (time.perf_counter() - started))

    durations({name: partial(read, name) for name in readers}, rounds)
    return {name: values[-rounds:] for name, values in rates.items()}


def open_images(path: Path, pipeline: str = _ZARR_PIPELINE) -> zarr.Array[Any]:
    """Stored crops [n, h, w] of the store at `path`, decoded by zarr-python or what is named."""
    # The pipeline of an array is fixed when it is opened.
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        images = open_group(path)[0]["images"]
    assert isinstance(images, zarr.Array)
    return images


def _peer(name: str, path: Path) -> Reader | None:
    """Another reader of the same files; None if it is not installed."""
    if name == "zarr-python":
        return _one_by_one(open_images(path))
    try:
        module = import_module(name)
    except ImportError:
        return None
    if name == "zarrs":
        return _one_by_one(open_images(path, "zarrs.ZarrsCodecPipeline"))
    return _tensorstore(module, path)


def _one_by_one(images: zarr.Array[Any]) -> Reader:
    return lambda indices: _scaled((images[int(i)] for i in indices), len(indices))


def _tensorstore(tensorstore: Any, path: Path) -> Reader:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "images")}}
    limits = {
        "data_copy_concurrency": {"limit": 1},
        "file_io_concurrency": {"limit": 1},
        # Room for the index of each shard, not for crops.
        "cache_pool": {"total_bytes_limit": CROP_BYTES},
    }
    array = tensorstore.open({**spec, "context": limits}, read=True).result()

    def read(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        crops = [array[int(i)].read() for i in indices]
        return _scaled((crop.result() for crop in crops), len(crops))

    return read


def _scaled(crops: Iterable[Any], number: int) -> NDArray[np.float32]:
    """Crops in [-1, 1], scaled just as `MicrographStore.read` does it."""
    images = np.empty((number, CROP_SIZE, CROP_SIZE), np.float32)
    for image, crop in zip(images, crops, strict=True):
        stored = np.asarray(crop)
        low, high = np.float32(stored.min()), np.float32(stored.max())
        np.subtract(stored, low, out=image, dtype=np.float32)
        image /= (high - low) / 2
        image -= 1
    return images


def _check(store: MicrographStore, peers: dict[str, Reader]) -> None:
    """Whoever reads something else would not be a peer."""
    indices = np.array([len(store) - 1, 0, 1])
    for name, read in peers.items():
        assert np.array_equal(read(indices), store.read(indices)), name


@contextmanager
def _pread(shards: Path, rng: np.random.Generator) -> Iterator[Reader]:
    """Reads as many bytes as the pixels of the crops have, anywhere in the shards."""
    files = files_of(shards)
    # Starts of pages from which a whole crop can be read.
    starts = np.array([max(0, file.stat().st_size - CROP_BYTES) // _PAGE + 1 for file in files])
    with ExitStack() as opened:
        numbers = [opened.enter_context(file.open("rb")).fileno() for file in files]

        def read(indices: NDArray[np.int64]) -> None:
            for place in rng.choice(len(files), len(indices), p=starts / starts.sum()):
                offset = _PAGE * int(rng.integers(starts[place]))
                os.pread(numbers[place], CROP_BYTES, offset)

        yield read


def _pin(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:  # it has ended
            continue
