"""Damaged files."""

from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray


def write_damaged_hdf5(path: Path, image: NDArray[Any]) -> None:
    """HDF5 with `image` twice, as `bad` and `good`: of the first a byte is not as its checksum."""
    with h5py.File(path, "w") as file:
        for name in ("bad", "good"):
            file.create_dataset(name, data=image, chunks=image.shape, fletcher32=True)
        place = file["bad"].id.get_chunk_info(0).byte_offset
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1
    path.write_bytes(whole)
