"""Files of partial scans: samples along a path, or intensities and dwell on the pixel grid."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.conventions import raster_scan
from stem_complete.data.formats.damage import damage
from stem_complete.data.formats.freescan import (
    coordinates_of,
    detector_of,
    files_of,
    read_freescan,
)
from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.data.formats.readers import SUPPORTED, check_file, has_reader
from stem_complete.data.formats.sample_arrays import read_hdf5, read_npy, read_npz
from stem_complete.data.formats.samples import Samples, on_path, path_scans
from stem_complete.data.formats.tables import read_csv, read_json, read_parquet
from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError, StemCompleteError
from stem_complete.scan import ScanPath

_TABLES: dict[str, Callable[[Path], Samples]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
TABLES = tuple(_TABLES)
"""Suffixes of files that hold samples and never images."""

_PATHS: dict[str, Callable[[Path], Samples | None]] = {
    **_TABLES,
    ".json": read_json,
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
}
PATHS = (*SUPPORTED, *_PATHS)
"""Suffixes of files that may hold a path or a dwell map."""

INTENSITIES = {"intensity", "intensities", "image", "partial", "partial_scan", "scan", "data"}
DWELLS = {"dwell", "dwell_map", "dwells", "mask"}
"""Names of intensities and of dwell maps beside them, in files with several arrays."""


def read_scans(
    path: str | Path,
    dwell: str | Path | None = None,
    options: ScanOptions = AS_STORED,
    *,
    along: str | Path | None = None,
) -> list[RasterScan | PathScan]:
    """The partial scans of a file: one, or those of a stack or of a column `scan`.

    Samples along a path are read from CSV, Parquet, NPZ, HDF5 and Direct Electron's FreeScan,
    images from any supported format. Where an image was measured, its dwell map says; or `dwell`
    beside `intensity` in an NPZ or HDF5; or NaN; or one constant that fills the gaps of a path. See
    `conventions.raster_scan` and `samples.path_scans`.

    Args:
        path: The file.
        dwell: File of the dwell map of images; of a stack of images one map, or as many.
        options: What the files do not say.
        along: File of the path of samples that have no positions, or of others than theirs.

    Raises:
        DataError: A file cannot be read, or holds no partial scan; or all intensities are equal.
        ConfigError: An option makes no sense.
        MissingPackageError: A package that reads such files is not installed.
    """
    path = Path(path)
    scans: list[RasterScan | PathScan]
    if along is not None:
        scans = [*path_scans(_along(path, Path(along)), path, options)]
    elif (samples := read_samples(path)) is not None:
        if options.signal is None and (coordinates := coordinates_of(path)):
            options = replace(options, signal=detector_of(path, coordinates))
        scans = [*path_scans(samples, path, options)]
    else:
        scans = [*_rasters(path, dwell, options)]
    for scan in scans:
        check_contrast(scan, path)
    return scans


def check_contrast(scan: RasterScan | PathScan, where: object) -> None:
    """Refuses a scan that shows nothing.

    Raises:
        DataError: All intensities are equal.
    """
    if np.nanmin(scan.intensity) == np.nanmax(scan.intensity):
        raise DataError(
            expected="measured intensities that are not all equal",
            found=f"{np.nanmax(scan.intensity):g} in all {np.isfinite(scan.intensity).sum()}",
            where=where,
            fix="leave it out: the detector was off, or saturated",
        )


def read_scan(
    path: str | Path,
    dwell: str | Path | None = None,
    options: ScanOptions = AS_STORED,
    *,
    along: str | Path | None = None,
) -> RasterScan | PathScan:
    """The one partial scan of a file; see `read_scans`.

    Raises:
        DataError: As `read_scans`; or the file holds several.
    """
    scans = read_scans(path, dwell, options, along=along)
    if len(scans) > 1:
        raise DataError(
            expected="one scan",
            found=f"{len(scans)} scans",
            where=path,
            fix="read them with `read_scans`",
        )
    return scans[0]


def read_path(file: str | Path, shape: tuple[int, int] | None = None) -> ScanPath:
    """The path of a file, as `stem-complete scan` writes it, or of a scan that was taken along one.

    Args:
        file: The file.
        shape: (h, w) of the image [px]; None: what the file says, or positions reach.

    Raises:
        DataError: It cannot be read, holds no path, or several.
        MissingPackageError: A package that reads such files is not installed.
    """
    file = Path(file)
    check_file(file)
    positions = positions_of(file)
    num = max(len(column) for column in positions.columns.values())
    samples = on_path(Samples({"intensity": np.zeros(num)}), positions)
    paths = path_scans(samples, file, replace(AS_STORED, shape=shape))
    if len(paths) > 1:
        raise DataError(
            expected="one path",
            found=f"{len(paths)} scans",
            where=file,
            fix="write each to a file of its own",
        )
    return paths[0].path


def sources_of(path: Path) -> list[Path]:
    """The files that a scan's file is read with, itself among them."""
    coordinates = coordinates_of(path)
    if coordinates is not None:
        return files_of(coordinates)
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def read_samples(path: Path) -> Samples | None:
    """The samples of a file along a path, or a path alone; None if it holds images.

    Raises:
        DataError: It cannot be read.
        MissingPackageError: A package that reads such files is not installed.
    """
    coordinates = coordinates_of(path)
    reader = read_freescan if coordinates else _PATHS.get(path.suffix.lower())
    if reader is None or path.is_dir():
        return None
    check_file(path)
    with warnings.catch_warnings():  # as for images
        warnings.simplefilter("ignore")
        return _read(reader, coordinates or path)


def _read(reader: Callable[[Path], Samples | None], path: Path) -> Samples | None:
    try:
        return reader(path)
    except StemCompleteError:
        raise
    except Exception as error:  # damaged files make readers fail in any way
        if has_reader(path):  # that of images says what is wrong with it
            return None
        traceback.clear_frames(error.__traceback__)
        raise DataError(
            expected=f"a readable {path.suffix} file", **damage(path, error)._asdict(), where=path
        ) from error


def positions_of(file: Path) -> Samples:
    """The samples of a file that holds a path.

    Raises:
        DataError: It cannot be read, or holds none.
        MissingPackageError: A package that reads such files is not installed.
    """
    positions = read_samples(file)
    if positions is None:
        raise DataError(
            expected="a path: columns x, y and perhaps dwell, as `stem-complete scan` writes them",
            found="none",
            where=file,
            fix="give a file that `stem-complete scan` wrote, or one with these columns",
        )
    return positions


def _along(path: Path, along: Path) -> Samples:
    """Intensities of one file on the path of another."""
    check_file(path)
    positions = positions_of(along)
    samples = read_npy(path) if path.suffix.lower() == ".npy" else read_samples(path)
    if samples is None and path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            samples = Samples({name: arrays[name] for name in arrays.files})
    if samples is None:
        raise DataError(
            expected="intensities along the path, in CSV, Parquet, NPY, NPZ or HDF5",
            found="images",
            where=path,
            fix="leave out --path",
        )
    return on_path(samples, positions)


def _rasters(path: Path, dwell: str | Path | None, options: ScanOptions) -> list[RasterScan]:
    images = read_file(path, options.signal, masks=True).micrographs
    maps: list[Micrograph] = []
    if dwell is not None:
        maps = read_file(Path(dwell), masks=True).micrographs
    elif options.signal is None:
        maps = _named(images, DWELLS)
    if options.signal is None:
        own = {each.name for each in _named(images, DWELLS)}
        images = _named(images, INTENSITIES) or [i for i in images if i.name not in own] or images
    names = dict.fromkeys(image.name for image in images)
    if len(names) > 1:
        raise DataError(
            expected="one image or stack, or `intensity` and `dwell`",
            found=f"images {', '.join(names)}",
            where=path,
            fix="choose one with --signal",
        )
    if len(maps) not in (0, 1, len(images)):
        raise DataError(
            expected=f"one dwell map, or one for each of {len(images)} scans",
            found=f"{len(maps)}",
            where=maps[0].path,
            fix="give the dwell map that belongs to this scan",
        )
    one_each = maps * len(images) if len(maps) == 1 else maps
    times: list[NDArray[Any] | None] = [each.pixels for each in one_each] or [None] * len(images)
    return [
        raster_scan(
            image.pixels,
            time,
            options=options,
            pixel_size_nm=image.pixel_size_nm,
            about=image.about,
            where=path,
            dwell_where=maps[0].path if maps else path,
        )
        for image, time in zip(images, times, strict=True)
    ]


def _named(images: list[Micrograph], names: set[str]) -> list[Micrograph]:
    return [image for image in images if image.name.rsplit("/", 1)[-1].lower() in names]
