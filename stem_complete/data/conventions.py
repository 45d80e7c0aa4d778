"""Partial scans on the pixel grid as people store them -> `RasterScan`.

What was not measured is NaN, or one constant, or said by a dwell map; dwell times are fractions of
a full pixel dwell, visits, or seconds. What is found is told in the scan's notes; what cannot be
told apart is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.console import counted
from stem_complete.data.about import NOTHING, About
from stem_complete.data.fills import Mask, find_fill, hole_share
from stem_complete.data.scan_options import AS_STORED, SECONDS, ScanOptions
from stem_complete.data.scans import RasterScan, real
from stem_complete.errors import ConfigError, DataError

# Where maps that state no unit are believed: 95 of 100 dwell times are not longer than this [full
# pixel dwells], nor than those, of a scan that left pixels out and of one that went over all.
_LONGEST, _SHORTEST, _SHORTEST_OF_ALL = 3.0, 0.1, 0.01
_SMALLEST_GAPS = 0.01  # of the image: NaN in fewer pixels are dead ones
_LARGEST_HOLE = 0.25  # of an image whose zeros may be gaps or a dark specimen
_LARGEST_LOSS = 0.1  # of the pixels with intensities without dwell, or the other way around
_PARKED = 10.0  # times as long as all but a hundredth of the dwell times

_TURNED: dict[str, Callable[[Mask], Mask]] = {
    "inverted": lambda visited: ~visited,
    "transposed": lambda visited: visited.T,
    "flipped upside down": np.flipud,
    "flipped left to right": np.fliplr,
    "turned by 180 degrees": lambda visited: visited[::-1, ::-1],
}


def raster_scan(
    intensity: ArrayLike,
    dwell: ArrayLike | None = None,
    *,
    options: ScanOptions = AS_STORED,
    pixel_size_nm: float | None = None,
    intensity_range: tuple[float, float] | None = None,
    about: About = NOTHING,
    where: object = "partial scan",
    dwell_where: object = "dwell map",
) -> RasterScan:
    """A partial scan from images as people store them.

    Args:
        intensity: Intensities [h, w], or a masked array of them.
        dwell: Dwell map or mask [h, w]; NaN or one negative value in it is 0.
        options: What was not measured, if no constant is to be looked for (`find_fill`), and the
            unit of the dwell map.
        pixel_size_nm: As of `RasterScan`.
        intensity_range: As of `RasterScan`.
        about: As of `RasterScan`.
        where: The file or argument of the intensities, for errors.
        dwell_where: That of the dwell map.

    Raises:
        DataError: It cannot be a partial scan, the dwell map is that of another one, or it is not
            clear what was measured.
        ConfigError: An option makes no sense.
    """
    if isinstance(intensity, np.ma.MaskedArray):
        intensity = np.ma.filled(intensity.astype(np.float64), np.nan)
    values = real(intensity, where)
    if values.ndim != 2 or not values.size:
        raise DataError(
            expected="one scan [h, w]",
            found=f"shape {values.shape}",
            where=where,
            fix="give one image at a time",
        )
    notes: list[str] = []
    fill = _fill_of(values, np.asarray(intensity).dtype, options.unmeasured, notes)
    empty = np.isnan(values) | (values == fill)
    if dwell is None:
        _judge_alone(values, empty, fill, options, where, notes)
        times = (~empty).astype(np.float64)
    else:
        # A few dead pixels do not tell where the probe was.
        is_told = fill is not None or empty.mean() > _SMALLEST_GAPS
        told = empty if is_told else np.zeros_like(empty)
        times = _dwell_times(dwell, told, options, dwell_where, notes)
        _check_agreement(~told, times > 0, dwell_where)
        if fill == 0 and options.unmeasured is None:  # dark, where the probe was
            empty = np.isnan(values)
            if num_dark := int((values[times > 0] == 0).sum()):
                notes.append(f"0 is taken for measured in {counted(num_dark, 'pixel')} with dwell")
        if num_lost := int((empty & (times > 0)).sum()):
            notes.append(f"left out: {counted(num_lost, 'pixel')} with dwell but without intensity")
    values[empty] = np.nan
    return RasterScan(
        values,
        times,
        pixel_size_nm=pixel_size_nm,
        intensity_range=intensity_range,
        about=about,
        where=where,
        dwell_where=dwell_where,
        notes=notes,
    )


def _fill_of(
    values: NDArray[np.float64], dtype: np.dtype[Any], unmeasured: float | None, notes: list[str]
) -> float | None:
    """The value that stands for not measured, beside NaN."""
    if unmeasured is None:
        is_nan = np.isnan(values).mean() > _SMALLEST_GAPS
        return None if is_nan else find_fill(values)
    if np.isnan(unmeasured):
        return None
    fill = float(dtype.type(unmeasured)) if dtype.kind == "f" else unmeasured  # 1e20 of float32
    if not (values == fill).any():
        notes.append(f"no pixel holds {unmeasured:g}, so none is left out for that")
    return fill


def _judge_alone(
    values: NDArray[np.float64],
    empty: Mask,
    fill: float | None,
    options: ScanOptions,
    where: object,
    notes: list[str],
) -> None:
    """Tells what an image without dwell map is taken for.

    Raises:
        DataError: That cannot be told.
    """
    if values.min() == values.max():
        raise DataError(
            expected="at least one measured pixel",
            found=f"{values.min():g} in all",
            where=where,
            fix="leave it out: nothing was measured, or the detector was off",
        )
    if options.unmeasured is not None:
        return
    share = empty.mean()
    if fill == 0 and (hole := hole_share(~empty)) > _LARGEST_HOLE:
        raise DataError(
            expected="a dwell map, as zeros may be dark or not measured",
            found=f"0 in {share:.0%} of the pixels, {hole:.0%} of the image in one piece far from "
            "the path",
            where=where,
            fix="give --dwell, or --unmeasured 0 if the probe was never there",
        )
    if fill is not None:
        notes.append(f"{share:.0%} of the pixels are exactly {fill:.9g}, taken for not measured")
    elif not empty.any() and (share := (values == 0).mean()) > _SMALLEST_GAPS:
        notes.append(
            f"{share:.0%} of the pixels are 0, taken for measured; if the probe was never there, "
            "give --unmeasured 0"
        )


def _dwell_times(
    dwell: ArrayLike, empty: Mask, options: ScanOptions, where: object, notes: list[str]
) -> NDArray[np.float64]:
    """The dwell map in full pixel dwells; the scan tells that it measured nothing at `empty`."""
    stored = real(dwell, where)
    if stored.shape != empty.shape:
        raise DataError(
            expected=f"the scan's shape {empty.shape}",
            found=f"{stored.shape}",
            where=where,
            fix="give the dwell map that belongs to this scan",
        )
    stored = _without_fill(stored, empty)
    for found, wrong in (
        ("NaN or infinite", ~np.isfinite(stored)),
        ("negative", stored < 0),
    ):
        if wrong.any():
            raise DataError(
                expected="finite dwell times of 0 or more",
                found=f"{int(wrong.sum())} {found} ones",
                where=where,
                fix="set them to 0 where the probe never was",
            )
    visited = stored[stored > 0]
    if not visited.size:
        return stored
    longest = float(np.quantile(visited, 0.99, method="lower"))
    parked = stored > _PARKED * longest
    if parked.any() and parked.sum() <= max(1, visited.size // 100):
        longest = float(stored[~parked].max())
        notes.append(
            f"shortened to the longest of the others: {int(parked.sum())} of {visited.size} dwell "
            f"times that are over {_PARKED:g} times as long, as of a parked probe"
        )
        stored = np.where(parked, longest, stored)
    return stored / full_dwell_of(stored, options, where)


def _without_fill(dwell: NDArray[np.float64], empty: Mask) -> NDArray[np.float64]:
    """With 0 for what marks that the probe never was there.

    That is NaN or the one negative value, unless they are few, or one value of all `empty` alone.
    """
    if empty.any() and not empty.all():
        value = dwell[empty][0]
        outside = dwell[~empty]
        if (dwell[empty] == value).all() and (outside != value).all() and (outside > 0).all():
            return np.where(empty, 0.0, dwell)
    no_time = np.isnan(dwell) | (dwell < 0)
    values = np.unique(dwell[no_time])  # NaN counts as one
    is_fill = len(values) == 1 and _SMALLEST_GAPS <= no_time.mean() < 1
    return np.where(no_time, 0.0, dwell) if is_fill else dwell


def full_dwell_of(dwell: NDArray[np.float64], options: ScanOptions, where: object) -> float:
    """A full pixel dwell in the unit of the dwell times of a map.

    Raises:
        DataError: Times without unit that are far from full pixel dwells, or with one but without
            the full dwell.
        ConfigError: The full dwell is not above 0.
    """
    unit, full = options.dwell_unit, options.full_dwell
    if full is not None:
        if not (np.isfinite(full) and full > 0):
            raise ConfigError(
                expected="a full pixel dwell above 0",
                found=f"{full}",
                where="full_dwell",
                fix="give the dwell of a pixel in a full scan",
            )
        return full
    if unit == "full":
        return 1.0
    if unit in SECONDS:
        raise DataError(
            expected=f"the dwell of a pixel in a full scan, as dwell times are in {unit}",
            found="none",
            where=where,
            fix=f"give --full-dwell in {unit}",
        )
    if unit == "counts" or not (dwell % 1).any():
        return float(dwell.max())
    longest = float(np.quantile(dwell[dwell > 0], 0.95))
    shortest = _SHORTEST if (dwell > 0).mean() < 0.9 else _SHORTEST_OF_ALL
    if not shortest <= longest <= _LONGEST:
        raise DataError(
            expected="dwell times in units of a full pixel dwell, so about 1 where the probe was "
            "longest",
            found=f"{longest:.3g}",
            where=where,
            fix="give their unit, such as --dwell-unit us --full-dwell 10, or --dwell-unit full",
        )
    return 1.0


def _check_agreement(measured: Mask, visited: Mask, where: object) -> None:
    """Refuses a dwell map that has no dwell at intensities, and dwell where there are none.

    One that only leaves out intensities, such as those of a full image, is right.
    """
    if measured.all() or not measured.any() or not visited.any():
        return
    unused = (measured & ~visited).sum() / measured.sum()
    missing = (visited & ~measured).sum() / visited.sum()
    if any(
        share <= min(_LARGEST_LOSS, by_chance / 2)
        for share, by_chance in ((unused, 1 - visited.mean()), (missing, 1 - measured.mean()))
    ):
        return
    found, fix = "", "give the dwell map that belongs to this scan"
    for how, turn in _TURNED.items():
        turned = turn(visited)
        if turned.shape == measured.shape and (turned != measured).sum() < 0.02 * measured.sum():
            found = f"; it fits if it is {how}"
            fix = f"save the dwell map {how}"
            break
    raise DataError(
        expected="a dwell map above 0 wherever the scan has intensities",
        found=f"0 at {unused:.0%} of them{found}",
        where=where,
        fix=fix,
    )
