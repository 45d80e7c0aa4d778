"""Ingest of micrographs beside writing as many bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.shards import COMPRESSIONS, Compression

CROP_SIZE = 512
"""Side of a crop [px]."""

CROP_BYTES = 2 * CROP_SIZE**2
"""Of the uint16 pixels of a crop."""

CROPS_PER_MICROGRAPH = 16

_SIDE = 4 * CROP_SIZE


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Pixels per second that get from TIFF files into a new store on the disk."""
    num_micrographs = 1 if effort.quick else 48
    files = write_micrographs(folder / "micrographs", num_micrographs)
    num_crops = CROPS_PER_MICROGRAPH * num_micrographs
    plain = folder / "plain"
    pixels = np.stack([tifffile.imread(file) for file in files])

    # All remove what they wrote the time before.
    def ingested(compression: Compression) -> None:
        store = folder / f"{compression}.zarr"
        shutil.rmtree(store, ignore_errors=True)
        report = ingest(files, store, compression=compression)
        assert report.num_added == num_crops, report
        sync(store)

    def written() -> None:
        plain.unlink(missing_ok=True)
        plain.write_bytes(pixels.data)
        sync(plain)

    cases: dict[str, Callable[[], object]] = {
        name: partial(ingested, name) for name in COMPRESSIONS
    }
    seconds = durations({"write": written, **cases}, effort.rounds)
    megabytes = num_crops * CROP_BYTES / 1e6
    limit = [megabytes / value for value in seconds["write"]]
    for compression in COMPRESSIONS:
        files_stored = files_of(folder / f"{compression}.zarr")
        stored = sum(file.stat().st_size for file in files_stored) / (num_crops * CROP_BYTES)
        yield Comparison(
            f"ingest of {num_micrographs} TIFF micrographs, {num_crops} crops, {compression}",
            "MB/s",
            [megabytes / value for value in seconds[compression]],
            "write of their pixels to one file",
            limit,
            Goal(">=", 0.5) if compression == "lz4" else None,
            note=f"both with fsync; stored in {stored:.0%} of the bytes",
        )


def write_micrographs(folder: Path, number: int) -> list[Path]:
    """TIFF files of 2048x2048 uint16 pixels, of which every crop is worth storing."""
    folder.mkdir()
    files = [folder / f"micrograph{n}.tif" for n in range(number)]
    for seed, file in enumerate(files):
        tifffile.imwrite(file, _lattice(np.random.default_rng(seed)))
    return files


def sync(path: Path) -> None:
    """Waits until a file, or all files of a folder, are on the disk."""
    for file in files_of(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [file for file in (path, *sorted(path.rglob("*"))) if file.is_file()]


def _lattice(rng: np.random.Generator) -> NDArray[np.uint16]:
    """Two crossed waves with shot noise, about 1000 counts: compresses like a micrograph."""
    row, column = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)
    # Periods of 10 to 30 px, in any orientation.
    a, b, c, d = rng.uniform(0.2, 0.6, 4).astype(np.float32)
    counts = 1000 + 300 * (np.cos(a * row + b * column) + np.cos(c * row - d * column))
    counts += np.sqrt(counts) * rng.standard_normal(counts.shape, np.float32)
    pixels: NDArray[np.uint16] = counts.astype(np.uint16)
    return pixels
