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
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.formats.sample_units import (
    FULL_DWELLS,
    Column,
    Placed,
    Spent,
    full_dwells,
    in_pixels,
)
from stem_complete.data.scan_options import AS_STORED, SECONDS, ScanOptions
from stem_complete.data.scans import PathScan, real
from stem_complete.errors import DataError

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
_NAME_AND_UNIT = re.compile(
    r"(.*?)\s*(?:[\[(]\s*([^\])]*?)\s*[\])]|/\s*(\S+)|_(px|pixels?|[unpm]?[ms]))?"
)


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
    _check_positions(samples, roles, where)
    _check_lengths(roles, signal, where)
    placed = in_pixels(roles["x"], roles["y"], samples.metadata, options, where)
    spent = full_dwells(roles.get("dwell"), placed, samples.metadata, options, where)
    time = roles.get("t")
    times_s = None if time is None else time.values * SECONDS.get(time.unit or "s", 1.0)
    clock = np.zeros(len(spent.dwell)) if times_s is None else times_s
    numbers = roles["scan"].values if "scan" in roles else np.zeros(len(clock))
    known = ~np.isnan(np.column_stack([placed.positions, spent.dwell, clock, numbers])).any(1)
    order = np.argsort(np.where(known, clock, np.inf), kind="stable")[: known.sum()]
    notes = [*samples.notes, *filter(None, (placed.note, spent.note))]
    if not known.any():
        raise DataError(
            expected="samples with position, dwell and time",
            found="none",
            where=where,
            fix="check the columns of position, dwell and time, or export the samples again",
        )
    if not known.all():
        notes.append(
            f"left out: {counted((~known).sum(), 'sample')} without position, dwell or time"
        )
    return [
        _scan(
            placed,
            spent,
            intensity,
            order[numbers[order] == number],
            times_s=times_s,
            unit=signal.unit,
            metadata=samples.metadata,
            notes=notes,
            where=where,
        )
        for number in np.unique(numbers[order])
        for intensity in np.atleast_2d(signal.values)
    ]


def image_shape(
    samples: Samples, options: ScanOptions = AS_STORED, where: object = "samples"
) -> tuple[int, int]:
    """(h, w) [px] of the image that samples are on, before any image is made.

    Raises:
        DataError: Positions are missing, or what they mean in px is not known.
    """
    roles, _ = _by_role(samples, where)
    _check_positions(samples, roles, where)
    return in_pixels(roles["x"], roles["y"], samples.metadata, options, where).shape


def on_path(intensities: Samples, path: Samples) -> Samples:
    """Intensities with the positions, dwells and times of another file."""
    if list(path.columns) == ["x", "y", "intensity"]:  # Open Beam Interface's points, unnamed
        path.columns["dwell"] = path.columns.pop("intensity")
    own = {name: values for name, values in path.columns.items() if _read_name(name)[0]}
    others = {
        name: values
        for name, values in intensities.columns.items()
        if _read_name(name)[0] in (None, "scan")
    }
    return Samples(
        {**own, **others},
        {**intensities.metadata, **path.metadata},
        {**intensities.units, **path.units},
        [*path.notes, *intensities.notes],
    )


def _check_positions(samples: Samples, roles: Mapping[str, Column], where: object) -> None:
    if missing := [name for name in "xy" if name not in roles]:
        raise DataError(
            expected="columns x, y and intensity",
            found=f"no {' and no '.join(missing)} among {', '.join(samples.columns) or 'none'}",
            where=where,
            fix="name them in the first line, or give the positions with --path",
        )
    if roles["x"].values.shape != roles["y"].values.shape:
        raise DataError(
            expected="as many values of y as of x",
            found=f"shapes {roles['x'].values.shape} and {roles['y'].values.shape}",
            where=where,
            fix="export the samples again",
        )


def _check_lengths(roles: Mapping[str, Column], signal: Column, where: object) -> None:
    num = roles["x"].values.size
    for column in (*roles.values(), signal):
        shape = column.values.shape
        if shape[-1:] != (num,) or len(shape) > (2 if column is signal else 1):
            raise DataError(
                expected=f"a value for each of {counted(num, 'position')}",
                found=f"shape {shape} of {column.name}",
                where=where,
                fix="give the path that belongs to this scan, or export the samples again",
            )
    if not num:
        raise DataError(
            expected="samples",
            found="no line of them",
            where=where,
            fix="export the samples again, or leave it out",
        )


def _scan(
    placed: Placed,
    spent: Spent,
    intensity: NDArray[np.float64],
    order: NDArray[np.int64],
    *,
    times_s: NDArray[np.float64] | None,
    notes: list[str],
    where: object,
    **known: Any,
) -> PathScan:
    """The scan of the samples of these numbers, in this order."""
    shape = placed.shape
    kept = order[~np.isnan(intensity[order])]
    if num_dead := len(order) - len(kept):
        notes = [*notes, f"left out: {counted(num_dead, 'sample')} without intensity"]
    positions, dwell = placed.positions[kept], spent.dwell[kept]
    is_inside = (positions >= -0.5) & (positions < np.array(shape[::-1]) - 0.5)
    outside = int((~is_inside.all(1)).sum())
    if outside > len(kept) / 2:
        raise DataError(
            expected=f"samples on an image of {shape} (h, w) px",
            found=f"{outside} of {len(kept)} outside of it",
            where=where,
            fix="give --shape, the --step from pixel to pixel, or the --origin of the positions",
        )
    if outside:
        told = f"left out: {outside} of {counted(len(kept), 'sample')}, outside the image"
        notes = [*notes, told]
    if spent.note:  # of guessed dwells, repeats do not add up to more than a full scan
        dwell = dwell / max(1.0, dwell.sum() / (shape[0] * shape[1]))
    return PathScan(
        *(positions, dwell, intensity[kept], shape),
        times_s=None if times_s is None else times_s[kept],
        pixel_size_nm=placed.pixel_size_nm,
        notes=notes,
        where=where,
        **known,
    )


def _by_role(samples: Samples, where: object) -> tuple[dict[str, Column], list[Column]]:
    """Columns by what they are, and the detectors."""
    roles: dict[str, Column] = {}
    signals: list[Column] = []
    for name, values in samples.columns.items():
        role, base, unit = _read_name(name)
        if role == "number":
            continue
        numbers = real(values, where)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        column = Column(name, base, unit or samples.units.get(name, ""), numbers)
        if role is None:
            signals.append(column)
        # Full pixel dwells beside times: the former need no other number.
        elif role not in roles or (role == "dwell" and column.unit.lower() in FULL_DWELLS):
            roles[role] = column
    return roles, signals


def _read_name(name: str) -> tuple[str | None, str, str]:
    """What a column is, None for a detector, and its name without unit, and the unit."""
    matched = _NAME_AND_UNIT.fullmatch(name.strip())
    assert matched is not None
    unit = (matched[2] or matched[3] or matched[4] or "").strip()
    base = re.sub(r"[\s_-]", "", matched[1]).lower()
    role = _ROLE_OF.get(base)
    if role is None and matched[4]:  # a detector may be called what it likes: BF_s is no time
        return None, re.sub(r"[\s_-]", "", name).lower(), ""
    return role, base, unit.replace("µ", "u").replace("μ", "u")


def _chosen(signals: list[Column], asked: str | None, where: object) -> Column:
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
