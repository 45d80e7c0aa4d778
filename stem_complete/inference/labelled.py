"""Scans of other libraries: xarray's arrays and HyperSpy's signals come back as what they were.

Neither library is imported: an object of theirs brings its own. HyperSpy's signals are known by
their attributes, as its classes are many.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.data.conventions import raster_scan
from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError

_OF_SIGNALS = ("data", "axes_manager", "metadata")


def as_raster(
    scan: ArrayLike | PathScan | RasterScan,
    dwell: ArrayLike | None = None,
    *,
    intensity_range: tuple[float, float] | None = None,
) -> RasterScan:
    """A scan of any type on the pixel grid.

    Args:
        scan: Intensities [h, w], NaN where not measured: an array, xarray's `DataArray` of any two
            dimensions, or HyperSpy's `Signal2D`. A `PathScan` or `RasterScan`, if `dwell` is None.
        dwell: Dwell map [h, w] of the same or another of these types; of a `DataArray` it is turned
            to the dimensions of the scan.
        intensity_range: As for `raster_scan`.

    Raises:
        DataError: The scan cannot be completed, or the dwell map belongs to another one.
    """
    if isinstance(scan, PathScan | RasterScan):
        if dwell is not None or intensity_range is not None:
            raise DataError(
                expected=f"a {type(scan).__name__} alone, which has its dwell times",
                found="a dwell map or an intensity range, too",
                where="dwell",
                fix="leave them out",
            )
        return scan.raster()
    if _is_data_array(scan) and _is_data_array(dwell):
        dwell = _turned_to(scan, dwell)
    return raster_scan(
        _values(scan, "partial scan"),
        None if dwell is None else _values(dwell, "dwell map"),
        intensity_range=intensity_range,
        where=_name(scan) or "partial scan",
    )


def like(scan: object, image: NDArray[np.float32], of: str = "") -> Any:
    """An image [h, w] as what its scan was: with coordinates, axes, attributes and metadata.

    Args:
        scan: What `as_raster` took.
        image: Its completion, or another image of its shape.
        of: What is put behind the name or title of the scan, such as "error".
    """
    name = " ".join(filter(None, (_name(scan), of)))
    if _is_data_array(scan):
        array: Any = scan
        result = array.copy(data=image).rename(name or None)
        result.encoding = {}  # of the file that the scan came from, perhaps of whole numbers
        return result
    if _is_signal(scan):
        result = scan.deepcopy()  # type: ignore[attr-defined]
        if getattr(result, "_lazy", False):
            result.compute(show_progressbar=False)
        result.data = image
        result.metadata.set_item("General.title", name)
        return result
    return image


def _is_data_array(value: object) -> bool:
    xarray = sys.modules.get("xarray")  # whoever has such an array has imported it
    return xarray is not None and isinstance(value, xarray.DataArray)


def _is_signal(value: object) -> bool:
    return all(hasattr(value, name) for name in _OF_SIGNALS)


def _name(value: Any) -> str:
    """Name of a DataArray, title of a signal, "" if there is none."""
    if _is_data_array(value):
        return "" if value.name is None else str(value.name)
    return str(value.metadata.get_item("General.title", "")) if _is_signal(value) else ""


def _values(value: Any, what: str) -> ArrayLike:
    """The array of an object, with what was not computed yet.

    Raises:
        DataError: It has other axes than those of one image.
    """
    found, fix = "", "give an image, with rows and columns"
    if _is_data_array(value) and value.ndim != 2:
        found = f"dimensions {', '.join(map(str, value.dims)) or 'none'}"
        if value.ndim > 2:
            fix = f"choose one image, such as scan.isel({value.dims[0]}=0)"
    elif _is_signal(value) and np.ndim(value.data) != 2:
        found = f"a signal of shape {np.shape(value.data)}"
        if np.ndim(value.data) > 2:
            fix = "choose one image, such as signal.inav[0]"
    if found:
        where = _name(value) or what
        raise DataError(expected="one image [h, w]", found=found, where=where, fix=fix)
    if _is_data_array(value):
        values: ArrayLike = value.to_numpy()
        return values
    return np.asarray(value.data) if _is_signal(value) else value


def _turned_to(scan: Any, dwell: Any) -> Any:
    """The dwell map with its dimensions in the scan's order.

    Raises:
        DataError: It has other dimensions or coordinates.
    """
    fix = "give the dwell map that belongs to this scan"
    where = _name(dwell) or "dwell map"
    if set(dwell.dims) != set(scan.dims):
        raise DataError(
            expected=f"the scan's dimensions {', '.join(map(str, scan.dims))}",
            found=", ".join(map(str, dwell.dims)) or "none",
            where=where,
            fix=fix,
        )
    turned = dwell.transpose(*scan.dims)
    for dim in scan.dims:
        # xarray numbers a dimension without coordinates when it is asked for them.
        told = dim in scan.coords and dim in turned.coords
        if told and not np.array_equal(scan[dim], turned[dim]):
            raise DataError(
                expected=f"the scan's coordinates along {dim}",
                found="others",
                where=where,
                fix=fix,
            )
    return turned
