"""Which reader a file is for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from stem_complete.data.formats.arrays import read_numpy, read_png
from stem_complete.data.formats.hdf5 import read_hdf5
from stem_complete.data.formats.instruments import PLUGINS, read_emd, read_instrument
from stem_complete.data.formats.ome_zarr import is_zarr, read_zarr
from stem_complete.data.formats.signals import Contents
from stem_complete.data.formats.tiff import read_tiff
from stem_complete.errors import DataError

Reader = Callable[[Path, Contents], None]

_ZARR_ZIP = ".zarr.zip"
_READERS: dict[str, Reader] = {
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".png": read_png,
    ".npy": read_numpy,
    ".npz": read_numpy,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".hspy": read_hdf5,
    ".zarr": read_zarr,
    ".zspy": read_zarr,
    ".ozx": read_zarr,  # OME-Zarr in a ZIP file
    _ZARR_ZIP: read_zarr,
    **dict.fromkeys(PLUGINS, read_instrument),
    ".emd": read_emd,
}
SUPPORTED = tuple(_READERS)


def reader_of(path: Path) -> Reader:
    """The reader of a file, or of the folder of a zarr hierarchy.

    Raises:
        DataError: It is missing, empty, no file, or of no supported format.
        OSError: It cannot be looked at.
    """
    if is_zarr(path):
        return read_zarr
    reader = _READERS.get(_suffix(path))
    if path.exists() and (reader is None or path.is_dir()):
        raise DataError(
            expected=f"a file of a supported format ({' '.join(SUPPORTED)})",
            found="a folder" if path.is_dir() else f"a {path.suffix or 'suffixless'} file",
            where=path,
            fix="save it in one of these, or leave it out",
        )
    check_file(path)
    assert reader is not None
    return reader


def check_file(path: Path) -> None:
    """Checks that there is a file with data in it.

    Raises:
        DataError: It is missing, empty or no file.
        OSError: It cannot be looked at.
    """
    if not path.exists():
        raise DataError(expected="a file", found="no such file", where=path, fix="check the path")
    if not path.is_file():
        raise DataError(
            expected="a file", found="a pipe, socket or device", where=path, fix="leave it out"
        )
    if not path.stat().st_size:
        raise DataError(
            expected="data",
            found="an empty file",
            where=path,
            fix="copy it again from where it was recorded, or leave it out",
        )


def has_reader(path: Path, more: Collection[str] = ()) -> bool:
    """Whether a file has one of `more` suffixes or that of a supported format."""
    return _suffix(path) in _READERS or _suffix(path) in more


def _suffix(path: Path) -> str:
    return _ZARR_ZIP if path.name.lower().endswith(_ZARR_ZIP) else path.suffix.lower()
