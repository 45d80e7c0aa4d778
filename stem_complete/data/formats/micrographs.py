"""Files -> micrographs: which files are read, and what each holds.

TIFF, PNG, NPY, NPZ, HDF5 and zarr are read as they are, microscopes' own formats with the extra
`microscopy`. Pixels keep the file's values and dtype, in the machine's byte order.
"""

from __future__ import annotations

import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.containers import (
    read_hdf5,
    read_numpy,
    read_png,
    read_tiff,
    read_zarr,
)
from stem_complete.data.formats.instruments import PLUGINS, read_instrument
from stem_complete.data.formats.signals import Contents, FrameError
from stem_complete.errors import DataError
from stem_complete.extras import install_command

_READERS: dict[str, Callable[[Path, Contents], None]] = {
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".png": read_png,
    ".npy": read_numpy,
    ".npz": read_numpy,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".zarr": read_zarr,
    **dict.fromkeys(PLUGINS, read_instrument),
}
SUPPORTED = tuple(_READERS)

_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True, eq=False)
class Micrograph:
    """One image.

    Attributes:
        pixels: Intensities [h, w] in detector units, integer or real; may hold NaN or Inf.
        pixel_size_nm: Side of a pixel [nm], None if the file does not state it.
        name: Name of its signal in the file, "" where there is none.
        frame: Its number in the signal's stack, 0 for a single image.
        path: Its file.
    """

    pixels: NDArray[Any]
    pixel_size_nm: float | None
    name: str
    frame: int
    path: Path


class FileContents(NamedTuple):
    """Micrographs of a file, and what else it holds, as lines "name: what it is"."""

    micrographs: list[Micrograph]
    skipped: list[str]


def read_file(
    path: Path, signal: str | None = None, frame: int | None = None, *, masks: bool = False
) -> FileContents:
    """Every STEM image of a file and a list of what is none, such as spectra and colour images.

    Args:
        path: File, or folder of a zarr store.
        signal: Name of the only signal to read.
        frame: Number of the only frame to read of each signal.
        masks: Whether truth values are read too, as 0 and 1.

    Raises:
        DataError: The file is missing, damaged, of another format, or holds no image; or the
            signal or frame that was asked for is not in it.
    """
    path = Path(path)
    reader = _reader(path)
    contents = Contents(signal, frame, masks)
    # What readers warn of (odd tags, files they close late) is nothing the user can act on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader(path, contents)
        except Exception as error:  # damaged files make readers fail in any way
            traceback.clear_frames(error.__traceback__)  # closes the files it left open
            raise _data_error(error, path, frame) from error
    if not contents.names:
        raise DataError(
            expected="an image [h, w] or a stack of images [n, h, w] of real numbers",
            found=", ".join(contents.skipped[:3]) or "no data",
            where=path,
        )
    if not contents.signals:
        raise DataError(
            expected=f"a signal among {', '.join(map(repr, contents.names))}",
            found=f"{signal!r} asked for",
            where=path,
        )
    micrographs = [
        Micrograph(_native(pixels), taken.pixel_size_nm, taken.name, taken.first + number, path)
        for taken in contents.signals
        for number, pixels in enumerate(taken.frames)
    ]
    return FileContents(micrographs, contents.skipped)


def read_micrographs(
    path: Path, signal: str | None = None, frame: int | None = None
) -> list[Micrograph]:
    """Every STEM image of a file, or of one signal or frame of it; see `read_file`."""
    return read_file(path, signal, frame).micrographs


def read_micrograph(path: Path, signal: str | None = None, frame: int | None = None) -> Micrograph:
    """The one image of a file, all finite and not constant.

    Raises:
        DataError: As `read_file`; or there are several images, or NaN, Inf or one value only.
    """
    micrographs = read_micrographs(path, signal, frame)
    if len(micrographs) > 1:
        names = list(dict.fromkeys(micrograph.name for micrograph in micrographs))
        raise DataError(
            expected="one image",
            found=f"{len(micrographs)} (signals {', '.join(map(repr, names))})",
            where=path,
            fix="name the signal and the frame to read",
        )
    return require_image(micrographs[0])


def require_image(micrograph: Micrograph) -> Micrograph:
    """The micrograph, if it is all finite and not constant.

    Raises:
        DataError: It holds NaN, Inf or one value only.
    """
    pixels = micrograph.pixels
    num_bad = pixels.size - np.count_nonzero(np.isfinite(pixels))
    if num_bad:
        raise DataError(
            expected="finite intensities",
            found=f"{num_bad} of {pixels.size} pixels NaN or Inf",
            where=micrograph.path,
        )
    if pixels.min() == pixels.max():
        raise DataError(
            expected="an image with contrast",
            found=f"the value {pixels.flat[0]} in every pixel",
            where=micrograph.path,
        )
    return micrograph


def find_files(sources: Iterable[str | Path]) -> list[Path]:
    """Files of supported formats among files, folders (searched through) and globs.

    Sorted within each source, without repetition. A zarr store counts as one file. Of a TIA pair
    in a folder (`a.emi`, `a_1.ser`) the SER files are taken, as they hold the images. A store of
    ingested crops in a folder is passed over.

    Raises:
        DataError: A source is missing, holds no file of a supported format, or is of another one.
    """
    found: list[Path] = []
    for source in map(str, sources):
        searched = has_magic(source) and not Path(source).exists()
        # Path.glob takes no absolute patterns.
        names = sorted(glob(source, recursive=True)) if searched else [source]  # noqa: PTH207
        paths = [Path(name) for name in names]
        files: list[Path] = []
        for path in paths:
            if path.is_dir() and not _is_zarr(path):
                files += _search(path)
                searched = True
            elif not searched or _is_supported(path):
                _reader(path)
                files.append(path)
        if not files:
            raise DataError(
                expected=f"files of a supported format ({' '.join(SUPPORTED)})",
                found="none",
                where=source,
                fix="check the path",
            )
        found += _without_paired_emi(files) if searched else files
    return list(dict.fromkeys(found))


def _data_error(error: Exception, path: Path, frame: int | None) -> DataError:
    if isinstance(error, FrameError):
        return DataError(expected=str(error), found=f"frame {frame} asked for", where=path)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("rsciio"):
        return DataError(
            expected=f"RosettaSciIO, which reads {path.suffix} files",
            found="that it is not installed",
            where=path,
            fix=install_command("rsciio"),
        )
    lines = str(error).strip().splitlines()
    return DataError(
        expected=f"a readable {path.suffix or 'zarr'} file",
        found=lines[0] if lines else type(error).__name__,
        where=path,
        fix="check that the file is complete",
    )


def _reader(path: Path) -> Callable[[Path, Contents], None]:
    """The reader of `path`, which exists."""
    if not path.exists():
        raise DataError(expected="a file", found="no such file", where=path, fix="check the path")
    if _is_zarr(path):
        return read_zarr
    reader = _READERS.get(path.suffix.lower())
    if reader is None or path.is_dir():
        raise DataError(
            expected=f"a file of a supported format ({' '.join(SUPPORTED)})",
            found="a folder" if path.is_dir() else f"a {path.suffix or 'suffixless'} file",
            where=path,
        )
    if not path.stat().st_size:
        raise DataError(expected="data", found="an empty file", where=path)
    return reader


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in _ZARR_FILES)


def _is_supported(path: Path) -> bool:
    return _is_zarr(path) or (path.is_file() and path.suffix.lower() in _READERS)


def _search(folder: Path) -> list[Path]:
    files: list[Path] = []
    for name, folders, names in os.walk(folder):
        here = Path(name)
        files += [here / n for n in folders + names if n[0] != "." and _is_supported(here / n)]
        folders[:] = [n for n in folders if n[0] != "." and not _is_zarr(here / n)]
    return sorted(file for file in files if not (_is_zarr(file) and _is_store(file)))


def _is_store(path: Path) -> bool:
    from stem_complete.data.store.layout import is_store

    return is_store(path)


def _without_paired_emi(files: list[Path]) -> list[Path]:
    paired = {
        path.with_name(re.sub(r"_\d+$", "", path.stem))
        for path in files
        if path.suffix.lower() == ".ser"
    }
    return [p for p in files if p.suffix.lower() != ".emi" or p.with_suffix("") not in paired]


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
