"""Samples along a path, as columns of a file -> `PathScan`.

A column's name says what it is, and may end in its unit: `x`, `x_px`, `y [nm]`, `dwell (us)`,
`t/s`. What is no position, time or number of a scan is a detector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.conventions import full_dwell_of
from stem_complete.data.formats.pixel_size import nanometres
from stem_complete.data.formats.units import parse_unit
from stem_complete.data.scan_options import AS_STORED, SECONDS, ScanOptions
from stem_complete.data.scans import PathScan, real
from stem_complete.errors import DataError
from stem_complete.scan.raster import deposit

_ROLES = {
    "x": ("x", "xposition", "positionx", "posx", "xpos"),
    "y": ("y", "yposition", "positiony", "posy", "ypos"),
    "dwell": ("dwell", "dwelltime", "duration"),
    "t": ("t", "time", "times", "timestamp"),
    "scan": ("scan", "frame", "scannumber", "framenumber", "scanid"),
    "number": ("", "index", "n", "sample", "point", "number"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_INTENSITY = ("intensity", "intensities", "i", "signal", "value", "values", "brightness", "counts")
_PIXELS = ("", "px", "pix", "pixel", "pixels")
_FULL = (*_PIXELS, "full", "full pixel dwell", "full pixel dwells", "pixel dwells")
_NAME_AND_UNIT = re.compile(
    r"(.*?)\s*(?:[\[(]\s*([^\])]*?)\s*[\])]|/\s*(\S+)|_(px|pixels?|[unpm]?[ms]))?"
)
_FEWEST_SAMPLES = 1 / 400  # for each pixel of an image as large as the positions reach


@dataclass
class Samples:
    """Columns of a file, one value for each sample, in time order.

    Attributes:
        columns: By their names, as the file spells them: [n], or [k, n] of k scans along one path.
        metadata: What else the file says: `shape`, `pixel_size_nm`, `full_dwell_us`, ...
        units: Of columns whose names have none.
        notes: What a user should know of how they were read.
    """

    columns: dict[str, NDArray[Any]]
    metadata: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Column:
    name: str
    base: str
    unit: str
    values: NDArray[np.float64]


def path_scans(samples: Samples, where: object, options: ScanOptions = AS_STORED) -> list[PathScan]:
    """The scans that samples are of, in the order of their numbers.

    Positions are turned to px; samples without intensity or position are left out and counted in a
    note, as are those outside the image. Without dwell times each sample counts as the full dwell
    of as much of a pixel as the probe moved on: a whole one, if positions are whole numbers.

    Raises:
        DataError: A column is missing, or the samples are no partial scan.
    """
    roles, signals = _by_role(samples, where)
    signal = _chosen(signals, options.signal, where)
    if missing := [name for name in "xy" if name not in roles]:
        raise DataError(
            expected="columns x, y and intensity",
            found=f"no {' and no '.join(missing)} among {', '.join(samples.columns) or 'none'}",
            where=where,
            fix="name them in the first line, or give the positions with --path",
        )
    num = len(roles["x"].values)
    each = [signal, *roles.values()]
    if wrong := next((c for c in each if c.values.shape[-1:] != (num,) or c.values.ndim > 2), None):
        raise DataError(
            expected=f"a value for each of the {num} positions",
            found=f"shape {wrong.values.shape} of {wrong.name}",
            where=where,
        )
    positions, shape, pixel_size_nm, notes = _in_pixels(roles, samples.metadata, options, where)
    dwell = _full_dwells(
        roles.get("dwell"), positions, shape, samples.metadata, options, where, notes
    )
    time = roles.get("t")
    times_s = None if time is None else time.values * SECONDS.get(time.unit or "s", 1.0)
    numbers = roles["scan"].values if "scan" in roles else np.zeros(num)
    scans = []
    for number in np.unique(numbers[~np.isnan(numbers)]):
        own = (numbers == number) & np.isfinite(positions).all(1) & np.isfinite(dwell)
        scans += [
            _scan(
                *(positions, dwell, intensity, shape, times_s, own),
                dwell_is_known="dwell" in roles,
                pixel_size_nm=pixel_size_nm,
                unit=signal.unit,
                metadata=samples.metadata,
                notes=[*samples.notes, *notes],
                where=where,
            )
            for intensity in np.atleast_2d(signal.values)
        ]
    return scans


def _scan(
    positions: NDArray[np.float64],
    dwell: NDArray[np.float64],
    intensity: NDArray[np.float64],
    shape: tuple[int, int],
    times_s: NDArray[np.float64] | None,
    own: NDArray[np.bool_],
    *,
    dwell_is_known: bool,
    notes: list[str],
    where: object,
    **known: Any,
) -> PathScan:
    kept = own & np.isfinite(intensity)
    if num_dead := int((own & ~kept).sum()):
        notes = [*notes, f"{num_dead} samples without intensity are left out"]
    order = np.flatnonzero(kept)
    if times_s is not None:
        order = order[np.argsort(times_s[order], kind="stable")]
    positions, dwell, intensity = positions[order], dwell[order], intensity[order]
    size = np.array([shape[1], shape[0]])
    outside = int((~((positions >= -0.5) & (positions < size - 0.5)).all(1)).sum())
    if outside > len(positions) / 2:
        raise DataError(
            expected=f"samples on an image of {shape} (h, w) px",
            found=f"{outside} of {len(positions)} outside of it",
            where=where,
            fix="give --shape, the --step from pixel to pixel, or the --origin of the positions",
        )
    if outside:
        notes = [
            *notes,
            f"{outside} of {len(positions)} samples lie outside the image and do not count",
        ]
    if not dwell_is_known:  # repeats may not add up to more than a full scan
        dwell = dwell / max(1.0, dwell.sum() / (shape[0] * shape[1]))
    return PathScan(
        *(positions, dwell, intensity, shape),
        times_s=None if times_s is None else times_s[order],
        notes=notes,
        where=where,
        **known,
    )


def _by_role(samples: Samples, where: object) -> tuple[dict[str, _Column], list[_Column]]:
    """Columns by what they are, and the detectors."""
    roles: dict[str, _Column] = {}
    signals: list[_Column] = []
    for name, values in samples.columns.items():
        matched = _NAME_AND_UNIT.fullmatch(name.strip())
        assert matched is not None
        base = re.sub(r"[\s_-]", "", matched[1]).lower()
        unit = (matched[2] or matched[3] or matched[4] or samples.units.get(name, "")).strip()
        role = _ROLE_OF.get(base)
        if role is None:  # a detector may be called what it likes: BF_s is no time
            base = re.sub(r"[\s_-]", "", name).lower() if matched[4] else base
            signals.append(_Column(name, base, "" if matched[4] else unit, real(values, where)))
        elif role == "number":
            continue
        # Full pixel dwells beside times: the former need no other number.
        elif role not in roles or (role == "dwell" and unit.lower() in _FULL):
            unit = unit.replace("µ", "u").replace("μ", "u")
            roles[role] = _Column(name, base, unit, real(values, where))
    return roles, signals


def _chosen(signals: list[_Column], asked: str | None, where: object) -> _Column:
    names = [signal.name for signal in signals]
    if asked is not None:
        found = [
            signal for signal in signals if asked.lower() in (signal.name.lower(), signal.base)
        ]
    else:
        found = [s for s in signals if s.base in _INTENSITY] if len(signals) > 1 else signals
    if len(found) == 1:
        return found[0]
    raise DataError(
        expected=f"a detector {asked}" if asked else "one column of intensities",
        found=", ".join(names) or "none",
        where=where,
        fix="choose one with --signal" if names else "add a column `intensity`",
    )


def _in_pixels(
    roles: Mapping[str, _Column], metadata: Mapping[str, Any], options: ScanOptions, where: object
) -> tuple[NDArray[np.float64], tuple[int, int], float | None, list[str]]:
    """Positions [n, 2] [px], shape, pixel size [nm] and notes."""
    positions = np.stack([roles[name].values for name in "xy"], axis=-1)
    unit = options.position_unit or roles["x"].unit
    in_pixels = unit.lower() in _PIXELS
    known_nm = nanometres(metadata.get("pixel_size_nm"), "nm")
    unit_nm = parse_unit(unit).nm
    step, pixel_size_nm = options.step, known_nm
    if step is None and in_pixels:
        step = 1.0
    elif step is None and unit_nm and known_nm:
        step = known_nm / unit_nm
    elif step is not None and unit_nm:
        pixel_size_nm = step * unit_nm
    if step is None or not (np.isfinite(step) and step > 0):
        raise DataError(
            expected=f"the distance of neighbouring pixels, as positions are in {unit}",
            found="none" if step is None else f"{step}",
            where=where,
            fix=f"give --step in {unit}",
        )
    shape = options.shape or _pair(metadata.get("shape"), where)
    origin = options.origin or _pair(metadata.get("origin"), where, float) or (0.0, 0.0)
    known = positions[np.isfinite(positions).all(1)]
    if not len(known):
        raise DataError(expected="finite positions", found="none", where=where)
    low = known.min(0)
    if not shape and not options.origin and (not in_pixels or (low < -0.5).any()):
        origin = (float(low[0]), float(low[1]))
    positions = (positions - np.array(origin)) / step
    notes = []
    if not shape:
        width, height = np.floor((known.max(0) - np.array(origin)) / step + 0.5).astype(int) + 1
        shape = int(height), int(width)
        notes.append(f"the image is as large as the positions reach, {height} x {width} px")
        if len(known) < _FEWEST_SAMPLES * height * width:
            raise DataError(
                expected="positions in px, or their step from pixel to pixel",
                found=f"{len(known)} samples on {height} x {width} px",
                where=where,
                fix="give --step, or --shape if the image is so large",
            )
    return positions, (int(shape[0]), int(shape[1])), pixel_size_nm, notes


def _full_dwells(
    column: _Column | None,
    positions: NDArray[np.float64],
    shape: tuple[int, int],
    metadata: Mapping[str, Any],
    options: ScanOptions,
    where: object,
    notes: list[str],
) -> NDArray[np.float64]:
    """Dwell times [n] in full pixel dwells."""
    if column is None:
        return _guessed_dwells(positions, notes)
    dwell = column.values
    unit: Any = options.dwell_unit or (None if column.unit.lower() in _FULL else column.unit)
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
        return dwell
    if unit is None and full is None and (spent % 1).any():
        checked = deposit(
            torch.from_numpy(np.nan_to_num(positions)),
            torch.from_numpy(np.nan_to_num(dwell).clip(0)),
            shape,
        ).numpy()
        spent = checked[checked > 0].astype(np.float64)
    return dwell / full_dwell_of(spent, ScanOptions(dwell_unit=unit, full_dwell=full), where)


def _guessed_dwells(positions: NDArray[np.float64], notes: list[str]) -> NDArray[np.float64]:
    steps = np.hypot(*np.diff(positions[np.isfinite(positions).all(1)], axis=0).T)
    moved = steps[steps > 0]
    is_whole = not (positions % 1).any()
    dwell = 1.0 if is_whole or not moved.size else min(1.0, float(np.median(moved)))
    notes.append(f"no dwell times: each sample counts as {dwell:.3g} of a full pixel dwell")
    return np.full(len(positions), dwell)


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
            expected="two numbers, such as `shape: 512 512`", found=f"{value!r}", where=where
        ) from None
    return first, second
