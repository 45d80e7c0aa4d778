"""Positions of samples in px, and their dwell times in full pixel dwells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.conventions import full_dwell_of
from stem_complete.data.formats.pixel_size import nanometres
from stem_complete.data.formats.units import parse_unit
from stem_complete.data.scan_options import SECONDS, ScanOptions
from stem_complete.errors import DataError
from stem_complete.scan.raster import deposit

_PIXELS = ("", "px", "pix", "pixel", "pixels")
FULL_DWELLS = (*_PIXELS, "full", "full pixel dwell", "full pixel dwells", "pixel dwells")
"""Spellings of the unit of dwell times that need no other number."""

_FEWEST_SAMPLES = 1 / 400  # for each pixel of an image as large as the positions reach
_FAR = 0.25  # of their extent: positions that begin there are counted from elsewhere


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        name: As the file spells it, with its unit.
        base: The same without unit, blanks and capitals.
        unit: "" if the file states none.
        values: [n], or [k, n] of k scans along one path.
    """

    name: str
    base: str
    unit: str
    values: NDArray[np.float64]


class Placed(NamedTuple):
    """Positions [n, 2] [px] on an image of `shape` (h, w), its pixel size, and a note."""

    positions: NDArray[np.float64]
    shape: tuple[int, int]
    pixel_size_nm: float | None
    note: str


class Spent(NamedTuple):
    """Dwell times [n] in full pixel dwells, and what is to be told of a guess."""

    dwell: NDArray[np.float64]
    note: str


def in_pixels(
    x: Column, y: Column, metadata: Mapping[str, Any], options: ScanOptions, where: object
) -> Placed:
    """Positions in px, by their unit and what options or the file say of step, origin and shape.

    Raises:
        DataError: The step from pixel to pixel or the shape is not known, or none is finite.
    """
    positions = np.stack([x.values, y.values], axis=-1)
    known = positions[np.isfinite(positions).all(1)]
    if not len(known):
        raise DataError(
            expected="finite positions",
            found="none",
            where=where,
            fix="check the columns x and y, or export the samples again",
        )
    unit = options.position_unit or x.unit
    step, pixel_size_nm = _step(unit, metadata, options, where)
    shape = options.shape or _pair(metadata.get("shape"), where)
    origin = options.origin or _pair(metadata.get("origin"), where, float)
    low, high = known.min(0), known.max(0)
    is_elsewhere = (low < -0.5 * step).any() or (
        unit.lower() not in _PIXELS and (low > _FAR * (high - low)).any()
    )
    if origin is None:
        origin = tuple(low) if is_elsewhere and not shape else (0.0, 0.0)
    positions = (positions - np.array(origin)) / step
    if shape:
        return Placed(positions, _checked(shape, where), pixel_size_nm, "")
    width, height = (np.floor((high - np.array(origin)) / step + 0.5) + 1).tolist()
    if not len(known) >= _FEWEST_SAMPLES * height * width:
        raise DataError(
            expected="positions in px, or their step from pixel to pixel",
            found=f"{counted(len(known), 'sample')} on {height:.0f} x {width:.0f} px",
            where=where,
            fix="give --step, or --shape if the image is so large",
        )
    shape = _checked((int(height), int(width)), where)
    note = f"the image is as large as the positions reach, {shape[0]} x {shape[1]} px (h x w)"
    return Placed(positions, shape, pixel_size_nm, note)


def _checked(shape: tuple[int, int], where: object) -> tuple[int, int]:
    if min(shape) < 2:
        raise DataError(
            expected="an image of at least 2 x 2 px",
            found=f"{shape[0]} x {shape[1]} px (h x w)",
            where=where,
            fix="give --shape, or the --step of the positions from pixel to pixel",
        )
    return shape


def _step(
    unit: str, metadata: Mapping[str, Any], options: ScanOptions, where: object
) -> tuple[float, float | None]:
    """Distance of neighbouring pixels in that unit and in nm."""
    pixel_size_nm = nanometres(metadata.get("pixel_size_nm"), "nm")
    unit_nm = parse_unit(unit).nm
    step = options.step
    if step is not None and unit_nm:
        pixel_size_nm = step * unit_nm
    elif step is None and unit.lower() in _PIXELS:
        step = 1.0
    elif step is None and unit_nm and pixel_size_nm:
        step = pixel_size_nm / unit_nm
    if step is None or not (np.isfinite(step) and step > 0):
        raise DataError(
            expected=f"the distance of neighbouring pixels, as positions are in {unit or 'px'}",
            found="none" if step is None else f"{step}",
            where=where,
            fix=f"give --step in {unit or 'px'}",
        )
    return step, pixel_size_nm


def full_dwells(
    column: Column | None,
    placed: Placed,
    metadata: Mapping[str, Any],
    options: ScanOptions,
    where: object,
) -> Spent:
    """Dwell times in full pixel dwells, by their unit and what options or the file say of it.

    What is not known is guessed: as much of a full pixel dwell as the probe moved of a pixel.

    Raises:
        DataError: Their unit is not one of dwell times, or the full dwell is not known.
    """
    if column is None:
        dwell = np.full(len(placed.positions), guess := _guess(placed.positions))
        return Spent(dwell, f"no dwell times: each sample counts as {guess:.3g} full pixel dwells")
    dwell = column.values
    unit: Any = options.dwell_unit or (None if column.unit.lower() in FULL_DWELLS else column.unit)
    if unit not in (None, "full", "counts", *SECONDS):
        raise DataError(
            expected="dwell times in s, ms, us, ns or full pixel dwells",
            found=f"{unit!r}",
            where=where,
            fix="give --dwell-unit",
        )
    full = options.full_dwell
    stated_us = metadata.get("full_dwell_us")
    if full is None and unit in SECONDS and stated_us is not None:
        full = float(stated_us) * SECONDS["us"] / SECONDS[unit]
    if unit is None and (column.unit or "shape" in metadata):  # of `stem-complete scan`
        unit = "full"
    spent = dwell[np.isfinite(dwell) & (dwell > 0)]
    if not spent.size:
        return Spent(dwell, "")
    if full is None and (unit == "counts" or (unit is None and not (spent % 1).any())):
        longest = np.quantile(spent, 0.99)  # but for a parked probe
        guess = _guess(placed.positions)
        return Spent(
            np.minimum(dwell / longest, 1) * guess,
            f"dwell times are counts: {longest:g} count as {guess:.3g} full pixel dwells",
        )
    if unit is None and full is None and (spent % 1).any():
        checked = deposit(
            torch.from_numpy(np.nan_to_num(placed.positions, nan=-9)),
            torch.from_numpy(np.nan_to_num(dwell).clip(0)),
            placed.shape,
        ).numpy()
        spent = checked.astype(np.float64)
    one = full_dwell_of(spent, ScanOptions(dwell_unit=unit, full_dwell=full), where)
    return Spent(dwell / one, "")


def _guess(positions: NDArray[np.float64]) -> float:
    """How much of a pixel the probe moves from sample to sample; 1 from pixel to pixel."""
    known = positions[np.isfinite(positions).all(1)]
    steps = np.hypot(*np.diff(known, axis=0).T)
    moved = steps[steps > 0]
    is_whole = not (known % 1).any()
    return 1.0 if is_whole or not moved.size else min(1.0, float(np.median(moved)))


def _pair(value: Any, where: object, kind: type = int) -> Any:
    if value is None:
        return None
    parts = (
        re.split(r"[,;x\s]+", value.strip(" ()[]")) if isinstance(value, str) else np.ravel(value)
    )
    try:
        first, second = (kind(float(part)) for part in parts)
    except (TypeError, ValueError):
        raise DataError(
            expected="two numbers, such as `shape: 512 512`",
            found=f"{value!r}",
            where=where,
            fix="correct it in the file",
        ) from None
    return first, second
