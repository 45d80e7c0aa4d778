"""Zarr arrays of partial scans, read one by one: millions of them need not fit into memory.

An array [n, h, w] holds images. An array [n, m] holds intensities along one path, which is beside
it as `x` and `y` [m], or in a file. Dwell times are an array or attribute `dwell`: [h, w] or [m]
for all scans, or one for each; without them, pixels are judged as in a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.about import About, plain
from stem_complete.data.conventions import raster_scan
from stem_complete.data.formats.hdf5 import pixel_axes
from stem_complete.data.formats.hyperspy_trees import is_hyperspy
from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.formats.pixel_size import nanometres, square
from stem_complete.data.formats.samples import Samples, on_path, path_scans
from stem_complete.data.formats.scans import (
    DWELLS,
    INTENSITIES,
    check_contrast,
    positions_of,
)
from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError

_POSITIONS = ("x", "y")

_UNIT_NAMES = ("units", "unit", "intensity_unit")
_ACQUISITION = "acquisition"
_SAID_OTHERWISE = ("title", *_UNIT_NAMES, "pixel_size_nm", "dwell", "_ARRAY_DIMENSIONS")
"""Attributes that are no acquisition metadata."""


class ScanArray:
    """Scans of one shape in a zarr array.

    Attributes:
        place: Path or URL, which errors name.
        intensities: [n, h, w], or [n, m] along a path.
        attributes: What is said of them.

    Args:
        place: As the attribute.
        intensities: As the attribute.
        dwell: Dwell times of all scans, or of each; None if there are none.
        path: Arrays x and y [m] of the path.
        attributes: As the attribute.
    """

    def __init__(
        self,
        place: str,
        intensities: Any,
        dwell: Any = None,
        path: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.place, self.intensities = place, intensities
        self._dwell, self._path_arrays = dwell, dict(path or {})
        self.attributes = dict(attributes or {})
        # A scan is read for its hash, and then for itself.
        self._row = lru_cache(2)(self._read_row)

    def __len__(self) -> int:
        return int(self.intensities.shape[0])

    @property
    def shape(self) -> tuple[int, int] | None:
        """(h, w) [px]; None of scans along a path, which says it."""
        if self.intensities.ndim < 3:
            return None
        height, width = self.intensities.shape[1:]
        return int(height), int(width)

    @cached_property
    def pixel_size_nm(self) -> float | None:
        """Side of a pixel [nm], if it is said: `pixel_size_nm`, or as in HDF5."""
        told = self.attributes.get("pixel_size_nm")
        if told is not None:
            size = nanometres(told, "nm")
            return square(size, size)
        shape = tuple(self.intensities.shape)
        axes = pixel_axes(self.attributes, shape, [""] * len(shape))
        if axes is None:
            return None
        *_, rows, columns = (nanometres(axis.step, axis.unit) for axis in axes)
        return square(rows, columns)

    @cached_property
    def about(self) -> About:
        """What the attributes say of all scans.

        `title`, the intensities' `units`, and how they were acquired: the mapping `acquisition`,
        and what else there is.
        """
        told = plain(self.attributes)
        unit = next((told[name] for name in _UNIT_NAMES if told.get(name)), "")
        others = {name: each for name, each in told.items() if name not in _SAID_OTHERWISE}
        if isinstance(others.get(_ACQUISITION), dict):
            others |= others.pop(_ACQUISITION)
        return About(str(told.get("title") or ""), str(unit), others)

    def read(
        self,
        index: int,
        dwell: Path | None = None,
        along: Path | None = None,
        options: ScanOptions = AS_STORED,
    ) -> RasterScan | PathScan:
        """One scan.

        Args:
            index: Its place in the array.
            dwell: File of the dwell maps, instead of the array's own.
            along: File of the path, likewise.
            options: What is not said.

        Raises:
            DataError: It is no partial scan.
        """
        where = f"{self.place}[{index}]"
        values = self._row("intensities", index)
        scan: RasterScan | PathScan
        if along is not None or self._path:
            scan = self._along(values, index, along, options, where)
        elif values.ndim != 2:
            raise DataError(
                expected="images [n, h, w], or x and y [m] of the path beside them",
                found=f"shape {self.intensities.shape} alone",
                where=self.place,
                fix="give the path with --path",
            )
        else:
            times = self._own_dwell(index, values.shape)
            if dwell is not None:
                maps = _dwell_maps(dwell, dwell.stat().st_mtime_ns)
                times = maps[index if len(maps) > 1 else 0]
            scan = raster_scan(
                values,
                times,
                options=options,
                pixel_size_nm=self.pixel_size_nm,
                about=self.about,
                where=where,
                dwell_where=dwell or self.place,
            )
        check_contrast(scan, where)
        return scan

    def content(self, index: int) -> dict[str, str]:
        """Hashes of what a scan is read from: `scan`, and `dwell map` or `path` if it has them."""
        values = self._row("intensities", index)
        found = {"scan": _hash(values, said=self._said)}
        if self._path:
            found["path"] = _hash(*self._path.values())
        if self._dwell is not None:
            found["dwell map"] = _hash(self._own_dwell(index, values.shape))
        return found

    def files(self, index: int) -> list[Path]:
        """Chunk files that a scan is read from; none if the array does not lie in a folder."""
        is_of_each = getattr(self._dwell, "ndim", 0) == self.intensities.ndim
        beside = [*self._path_arrays.values(), *([] if self._dwell is None else [self._dwell])]
        found = _chunk_files(self.intensities, index)
        for array in beside:
            if not isinstance(array, np.ndarray):  # an attribute
                found += _chunk_files(array, index if array is self._dwell and is_of_each else None)
        return found

    @cached_property
    def _said(self) -> str:
        """The attributes, which completions tell; dwell times are hashed as such."""
        said = {name: each for name, each in self.attributes.items() if name != "dwell"}
        return json.dumps(plain(said), sort_keys=True)

    @cached_property
    def _path(self) -> dict[str, NDArray[Any]]:
        """Columns of the path [m]."""
        return {name: np.asarray(array[:]) for name, array in self._path_arrays.items()}

    def _along(
        self,
        values: NDArray[Any],
        index: int,
        along: Path | None,
        options: ScanOptions,
        where: str,
    ) -> PathScan:
        title, unit, told = self.about
        said = {"title": title, "pixel_size_nm": self.pixel_size_nm}
        said = {name: each for name, each in said.items() if each} | dict(told)
        samples = Samples({"intensity": values}, said, {"intensity": unit})
        if along is not None:
            samples = on_path(samples, positions_of(along))
        else:
            samples.columns |= self._path
            if (times := self._own_dwell(index, values.shape)) is not None:
                samples.columns["dwell"] = times
        (scan,) = path_scans(samples, where, options)
        return scan

    @cached_property
    def _dwell_of_all(self) -> NDArray[Any]:
        return np.asarray(self._dwell[...])

    def _own_dwell(self, index: int, shape: tuple[int, ...]) -> NDArray[Any] | None:
        if self._dwell is None:
            return None
        if self._dwell.ndim == len(shape):
            return self._dwell_of_all
        return self._row("dwell", index)

    def _read_row(self, name: str, index: int) -> NDArray[Any]:
        array = self._dwell if name == "dwell" else self.intensities
        try:
            return np.asarray(array[index])
        except Exception as error:  # codecs fail in any way at a damaged chunk
            raise DataError(
                expected=f"a scan that can be read at place {index}",
                found=str(error).split("\n")[0] or type(error).__name__,
                where=self.place,
                fix="check that the array is complete",
            ) from error


def scan_array(
    place: str,
    signal: str | None = None,
    *,
    along: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ScanArray | None:
    """The scans of a zarr array, or of a group with one; None if it is something else.

    Images of OME-Zarr and HyperSpy are something else, and so are channels.

    Args:
        place: Path or URL.
        signal: Name of the array, in a group with several.
        along: Whether a path is known, so that an array [n, m] is one of scans.
        options: For fsspec, such as credentials.

    Raises:
        DataError: It cannot be opened.
    """
    import zarr

    try:
        store: Any = place
        if "://" in place:
            from fsspec import url_to_fs

            store = remote_store(*url_to_fs(place, **(options or {})))
        node = zarr.open(store, mode="r")
    except Exception as error:
        raise DataError(
            expected="a zarr array or group",
            found=str(error).split("\n")[0] or type(error).__name__,
            where=place,
            fix="check the path",
        ) from error
    attributes = dict(node.attrs.asdict())
    if isinstance(node, zarr.Array):
        if not _may_be_scans(node) or (node.ndim == 2 and not along):
            return None
        return ScanArray(place, node, _dwell_attribute(attributes), None, attributes)
    if "ome" in attributes or "multiscales" in attributes or "format" in attributes:
        return None
    if is_hyperspy(node):
        return None
    arrays = dict(node.arrays())
    named = attributes.get("dwell")
    dwells = {named} if isinstance(named, str) else DWELLS
    own: Any = next((arrays[name] for name in sorted(arrays) if name.lower() in dwells), None)
    candidates = {
        name: array
        for name, array in arrays.items()
        if name.lower() not in dwells and _may_be_scans(array)
    }
    if signal is not None:
        candidates = {name: a for name, a in candidates.items() if name == signal}
    elif len(candidates) > 1:
        candidates = {name: a for name, a in candidates.items() if name.lower() in INTENSITIES}
    if len(candidates) != 1:
        return None
    (array,) = candidates.values()
    path = {name: arrays[name] for name in _POSITIONS if name in arrays}
    if array.ndim == 2 and not along and len(path) < len(_POSITIONS):
        return None
    attributes |= array.attrs.asdict()
    if own is None:
        own = _dwell_attribute(attributes)
    return ScanArray(place, array, own, path if array.ndim == 2 else None, attributes)


def _chunk_files(array: Any, index: int | None) -> list[Path]:
    """Files of an entry of an array, or of all of them."""
    root = getattr(array.store, "root", None)
    if root is None:
        return []
    outer = array.shards or array.chunks
    numbers = [range(-(-size // edge)) for size, edge in zip(array.shape, outer, strict=True)]
    if index is not None:
        numbers[0] = range(index // outer[0], index // outer[0] + 1)
    key = array.metadata.encode_chunk_key
    return [Path(root) / array.path / key(place) for place in product(*numbers)]


def remote_store(file_system: Any, path: str) -> Any:
    """A zarr store on a file system of fsspec.

    It is the one that this process has for all else: zarr's own would leave its connections open.
    """
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    return FsspecStore(AsyncFileSystemWrapper(file_system, asynchronous=True), path=path)


def _may_be_scans(array: Any) -> bool:
    names = getattr(array.metadata, "dimension_names", None) or [""]
    is_channels = str(names[0] or "").lower() in ("c", "channel", "channels", "detector", "y")
    return array.ndim in (2, 3) and array.dtype.kind in "biuf" and not is_channels


def _dwell_attribute(attributes: Mapping[str, Any]) -> NDArray[np.float64] | None:
    told = attributes.get("dwell")
    return None if told is None or isinstance(told, str) else np.asarray(told, dtype=np.float64)


@lru_cache(maxsize=2)
def _dwell_maps(file: Path, _changed: int) -> list[NDArray[Any]]:
    """The maps of a file, of which a million scans may share one."""
    return [each.pixels for each in read_file(file, masks=True).micrographs]


def _hash(*arrays: NDArray[Any] | None, said: str = "") -> str:
    digest = hashlib.sha256(said.encode())
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
