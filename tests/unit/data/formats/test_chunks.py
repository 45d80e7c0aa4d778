"""What a file does not hold of an image is known, and no crop shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.store.cropping import cut

STACK = np.random.default_rng(0).integers(1, 1000, (3, 64, 64)).astype(np.uint16)
GONE = (1, 1, 2)  # a chunk: rows 16 to 31 and columns 32 to 47 of the frame in the middle


def write_zarr(path: Path, array: NDArray[Any], **options: Any) -> None:
    zarr.create_array(path, data=array, chunks=(1, 16, 16)[-array.ndim :], **options)


def write_v2(folder: Path) -> Path:
    write_zarr(path := folder / "a.zarr", STACK, zarr_format=2)
    (path / ".".join(map(str, GONE))).unlink()
    return path


def write_v3(folder: Path) -> Path:
    write_zarr(path := folder / "a.zarr", STACK, zarr_format=3)
    path.joinpath("c", *map(str, GONE)).unlink()
    return path


def write_shards(folder: Path) -> Path:
    path = folder / "a.zarr"
    options: Any = {"chunks": (1, 8, 8), "shards": (1, 16, 16), "zarr_format": 3}
    zarr.create_array(path, data=STACK, **options)
    path.joinpath("c", *map(str, GONE)).unlink()
    return path


def write_zip(folder: Path) -> Path:
    whole = write_v3(folder)
    with ZipFile(folder / "a.zarr.zip", "w") as zipped:
        for file in filter(Path.is_file, whole.rglob("*")):
            zipped.write(file, file.relative_to(whole))
    return folder / "a.zarr.zip"


def write_hdf5(folder: Path) -> Path:
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("a", STACK.shape, STACK.dtype, chunks=(1, 16, 16))
        for place in np.ndindex(3, 4, 4):
            if place != GONE:
                number, row, column = place[0], place[1] * 16, place[2] * 16
                part = (number, slice(row, row + 16), slice(column, column + 16))
                frames[part] = STACK[part]
    return path


@pytest.mark.parametrize("frame", [None, 0, 1])
@pytest.mark.parametrize("write", [write_v2, write_v3, write_shards, write_zip, write_hdf5])
def test_crops_with_a_chunk_that_is_gone_are_left_out(
    tmp_path: Path, write: Callable[[Path], Path], frame: int | None
) -> None:
    path = write(tmp_path)
    found = [cut(image, 32, "uint16") for image in read_file(path, frame=frame).micrographs]
    crops = [crop for some, _ in found for crop in some]
    for crop in crops:
        rows, columns = (slice(first, first + 32) for first in (crop.row, crop.column))
        np.testing.assert_array_equal(crop.pixels, STACK[crop.frame, rows, columns])
    lost = [(left.frame, left.row, left.column) for _, some in found for left in some]
    assert lost == ([] if frame == 0 else [(1, 0, 32)])
    reasons = {left.reason for _, some in found for left in some}
    assert reasons <= {"25.0% of the pixels in chunks that are not in the file"}
    assert len(crops) == 4 * len(found) - len(lost)


def test_frames_that_were_never_written_are_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        frames = file.create_dataset("a", (3, 64, 64), "uint16", chunks=(2, 64, 64))
        frames[:2] = STACK[:2]
    images = read_file(tmp_path / "a.h5").micrographs
    assert [len(cut(image, 32, "uint16")[0]) for image in images] == [4, 4, 0]


def test_channels_and_colours_have_holes_of_their_own(tmp_path: Path) -> None:
    detectors = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(2, 64, 64),
        chunks=(1, 32, 32),
        dtype="uint16",
        dimension_names=("detector", "y", "x"),
    )
    detectors[:] = STACK[:2]
    (tmp_path / "a.zarr/c/1/0/0").unlink()
    assert [len(cut(m, 32, "uint16")[0]) for m in read_file(tmp_path / "a.zarr").micrographs] == [
        4,
        3,
    ]
    with h5py.File(tmp_path / "grey.h5", "w") as file:
        colours = file.create_dataset("a", (64, 64, 3), "uint16", chunks=(32, 64, 3))
        colours[:32] = STACK[0, :32, :, None]
    (grey,) = read_file(tmp_path / "grey.h5").micrographs
    assert len(cut(grey, 32, "uint16")[0]) == 2
