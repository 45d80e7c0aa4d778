"""Ingest of micrographs beside writing as many bytes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from stem_complete.benchmark import durations
from stem_complete.data.store.ingest import ingest

from . import Setting
from .report import Comparison, Goal

CROP_SIZE = 512  # [px]
CROPS_PER_MICROGRAPH = 16


def run(setting: Setting) -> Iterator[Comparison]:
    """Pixels per second that get from TIFF files into a new store on the disk."""
    num_micrographs = 1 if setting.quick else 48
    files = write_micrographs(setting.folder / "micrographs", num_micrographs)
    num_crops = CROPS_PER_MICROGRAPH * num_micrographs
    store, plain = setting.folder / "store.zarr", setting.folder / "plain"
    pixels = np.stack([tifffile.imread(file) for file in files])

    # Each removes what it wrote the time before.
    def ingested() -> None:
        shutil.rmtree(store, ignore_errors=True)
        report = ingest(files, store)
        assert report.num_added == num_crops, report
        sync(store)

    def written() -> None:
        plain.unlink(missing_ok=True)
        plain.write_bytes(pixels.data)
        sync(plain)

    seconds = durations({"ingest": ingested, "write": written}, setting.rounds)
    stored = sum(file.stat().st_size for file in files_of(store)) / pixels.nbytes
    yield Comparison(
        f"ingest of {num_micrographs} TIFF micrographs, {num_crops} crops",
        "MB/s",
        [pixels.nbytes / value / 1e6 for value in seconds["ingest"]],
        "write of their pixels to one file",
        [pixels.nbytes / value / 1e6 for value in seconds["write"]],
        Goal(">=", 0.5),
        note=f"both with fsync; stored in {stored:.0%} of the bytes",
    )


def write_micrographs(folder: Path, number: int) -> list[Path]:
    """TIFF files of 2048x2048 uint16 pixels: crossed waves with shot noise, about 1000 counts."""
    folder.mkdir()
    row, column = np.mgrid[: 4 * CROP_SIZE, : 4 * CROP_SIZE].astype(np.float32)
    files = [folder / f"micrograph{n}.tif" for n in range(number)]
    for seed, file in enumerate(files):
        rng = np.random.default_rng(seed)
        a, b, c, d = rng.uniform(0.2, 0.6, 4).astype(np.float32)  # periods of 10 to 30 px
        counts = 1000 + 300 * (np.cos(a * row + b * column) + np.cos(c * row - d * column))
        counts += np.sqrt(counts) * rng.standard_normal(counts.shape, np.float32)
        tifffile.imwrite(file, counts.astype(np.uint16))
    return files


def sync(path: Path) -> None:
    """Waits until a file, or all files of a folder, are on the disk."""
    for file in files_of(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [file for file in (path, *sorted(path.rglob("*"))) if file.is_file()]
