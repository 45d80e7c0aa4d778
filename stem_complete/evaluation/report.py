"""Scores of methods on scans of known micrographs: rows, what they say of a condition, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import fmean, geometric_mean, stdev
from typing import Any, NamedTuple, Self, TypeVar

from stem_complete.errors import DataError
from stem_complete.evaluation.bootstrap import Interval, ratio_interval

FIRST, MODEL = "first_completion", "model"
"""Names of a model's methods: the completion that its network corrects, and the corrected one."""

OWN_BASELINE = "adaptive_spline"
"""The baseline that is this project's: the first completion of its models."""

_SMALLEST = 1e-12
"""Taken for an error of 0, which has no logarithm."""

T = TypeVar("T")
K = TypeVar("K")


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in the order in which the keys come."""
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


class Details(NamedTuple):
    """More of one method on one scan.

    Attributes:
        frc: Fourier ring correlation with the unblurred crop [k], see `resolution`.
        resolution_px: Period at which it falls below 1/7 [px]; None if it is from the start.
        half_bit_resolution_px: Likewise below half a bit.
        rmse_by_distance: RMSE by distance from the nearest measured pixel, see `gaps`; None where
            no pixel is.
        num_columns: Atom columns of the crop; None where they were not looked for, or there is no
            lattice.
        columns_found: Share of them that the completion has.
        column_error_px: Root mean square distance of these from their places [px].
    """

    frc: tuple[float, ...]
    resolution_px: float | None
    half_bit_resolution_px: float | None
    rmse_by_distance: tuple[float | None, ...]
    num_columns: int | None = None
    columns_found: float | None = None
    column_error_px: float | None = None


class Row(NamedTuple):
    """One method on one scan. Errors are fractions of the range of the unblurred crop.

    Attributes:
        image: Name of the crop.
        field: Its field of view.
        geometry: Path of the probe.
        coverage: Mean dwell, such as "1/20".
        noise: The noise, such as "dose 100".
        method: Name of the method.
        rmse: Error against the blurred crop.
        psnr: Against the blurred crop [dB].
        ssim: Against the blurred crop.
        unblurred_rmse: Error against the unblurred crop.
        expected_rmse: `rmse` as the error map predicts it; None without a map.
        seconds: Time that the method took.
        pixel_size_nm: Side of a pixel [nm]; None if it is unknown.
        details: More of it, where they were asked for.
    """

    image: str
    field: str
    geometry: str
    coverage: str
    noise: str
    method: str
    rmse: float
    psnr: float
    ssim: float
    unblurred_rmse: float
    expected_rmse: float | None
    seconds: float
    pixel_size_nm: float | None = None
    details: Details | None = None


class Statistic(NamedTuple):
    """Mean over images and its standard error: None for a single image, or infinite values."""

    mean: float
    standard_error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Mean and standard error of `values`, of which there is at least one."""
        known = len(values) > 1 and all(map(math.isfinite, values))  # perfect ones have no PSNR
        return cls(fmean(values), stdev(values) / math.sqrt(len(values)) if known else None)


class Summary(NamedTuple):
    """One method over all images of a cell; see `Row`.

    Attributes:
        typical_rmse: Geometric mean of the RMSE, of which ratios are.
    """

    typical_rmse: float
    rmse: Statistic
    psnr: Statistic
    ssim: Statistic
    unblurred_rmse: Statistic
    expected_rmse: Statistic | None
    seconds: Statistic

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        """Means of the rows of one method."""
        columns = ([getattr(row, name) for row in rows] for name in cls._fields[1:])
        means = (None if None in column else Statistic.of(column) for column in columns)
        return cls(_typical(row.rmse for row in rows), *means)  # type: ignore[arg-type]


class Calibration(NamedTuple):
    """RMSE that the error map predicts, to what it is: geometric mean over images, and range."""

    ratio: float
    lowest: float
    highest: float


class Cell(NamedTuple):
    """All scans of one geometry, coverage and noise.

    Attributes:
        geometry: Path of the probe.
        coverage: Mean dwell, such as "1/20".
        noise: The noise, such as "dose 100".
        num_images: Number of scans.
        num_fields: Fields of view that they come from.
        methods: Means over images, by method.
        best_baseline: Baseline of the lowest geometric-mean RMSE; None without baselines.
        ratio: Geometric mean over images of the model's RMSE to that baseline's; None without
            either.
        interval: 95% bootstrap interval of `ratio` over fields of view; None if there is only one.
        share_better: Share of the images on which the model has the lower RMSE of these two.
        worst_ratio: Largest ratio of an image.
        worst_image: Name of that image.
        calibration: Of the model's error map; None without one.
        classical_ratio: As `ratio`, to the best baseline but `OWN_BASELINE`.
        classical_worst_ratio: Largest such ratio of an image.
    """

    geometry: str
    coverage: str
    noise: str
    num_images: int
    num_fields: int
    methods: dict[str, Summary]
    best_baseline: str | None = None
    ratio: float | None = None
    interval: Interval | None = None
    share_better: float | None = None
    worst_ratio: float | None = None
    worst_image: str | None = None
    calibration: Calibration | None = None
    classical_ratio: float | None = None
    classical_worst_ratio: float | None = None


class Worst(NamedTuple):
    """The scan of an image on which the model, or without one the best baseline, does worst.

    Attributes:
        row: The best baseline on the scan.
        model_rmse: RMSE of the model; None without one.
    """

    row: Row
    model_rmse: float | None


@dataclass(frozen=True)
class Report:
    """Scores, and how they came about.

    Attributes:
        rows: One for each method and scan.
        setup: What was evaluated on what, as plain values.
        left_out: Images that were not used, and why.
        baselines: Names of the methods that the model is compared with.
        failed: Scans that could not be evaluated, and why.
    """

    rows: list[Row]
    setup: dict[str, Any]
    left_out: list[str]
    baselines: tuple[str, ...]
    failed: tuple[str, ...] = ()

    def whole(self) -> Self:
        """This report.

        Raises:
            DataError: It lacks scans, as they failed.
        """
        if self.failed:
            raise DataError(
                expected="every scan evaluated",
                found=f"{len(self.failed)} that failed",
                where=self.failed[0],
                fix="start again: what is done is kept",
            )
        return self

    def cells(self) -> list[Cell]:
        """Means over images for each condition, in the order of the rows."""
        return [self._cell(rows) for rows in self._by_condition()]

    def worst(self, number: int) -> list[Worst]:
        """Images on which the model does worst beside the best baseline, each in one scan.

        Without a model, images on which the best baseline has the highest RMSE.
        """
        ranked: list[tuple[float, Worst]] = []
        for rows in self._by_condition():
            by_method = _by_method(rows)
            best = _best(by_method, self._present(by_method))
            if best is None:
                return []
            baseline, models = by_method[best], by_method.get(MODEL)
            errors = [row.rmse for row in models] if models else [None] * len(baseline)
            for row, model in zip(baseline, errors, strict=True):
                badness = row.rmse if model is None else model / max(row.rmse, 1e-12)
                ranked.append((badness, Worst(row, model)))
        ranked.sort(key=itemgetter(0), reverse=True)
        of_image = grouped((worst for _, worst in ranked), lambda w: (w.row.field, w.row.image))
        return [first for first, *_ in of_image.values()][:number]

    def to_json(self) -> str:
        """Everything as JSON; null for an infinite PSNR."""
        values = {
            "setup": self.setup,
            "cells": [plain(cell) for cell in self.cells()],
            "rows": [plain(row._replace(field=Path(row.field).name)) for row in self.rows],
            "left_out": self.left_out,
            "failed": self.failed,
        }
        return json.dumps(values, indent=2, allow_nan=False)

    def _by_condition(self) -> list[list[Row]]:
        return list(grouped(self.rows, attrgetter("geometry", "coverage", "noise")).values())

    def _present(self, by_method: dict[str, list[Row]]) -> list[str]:
        return [name for name in self.baselines if name in by_method]

    def _cell(self, rows: Sequence[Row]) -> Cell:
        by_method = _by_method(rows)
        images = next(iter(by_method.values()))
        present = self._present(by_method)
        best = _best(by_method, present)
        models = by_method.get(MODEL)
        cell = Cell(
            geometry=rows[0].geometry,
            coverage=rows[0].coverage,
            noise=rows[0].noise,
            num_images=len(images),
            num_fields=len({row.field for row in images}),
            methods={name: Summary.of(of_method) for name, of_method in by_method.items()},
            best_baseline=best,
            calibration=_calibration(models) if models else None,
        )
        if best is None or models is None:
            return cell
        errors = {
            name: [max(row.rmse, _SMALLEST) for row in by_method[name]]
            for name in (MODEL, *present)
        }

        def ratios_to(name: str) -> list[float]:
            return [ours / theirs for ours, theirs in zip(errors[MODEL], errors[name], strict=True)]

        ratios = ratios_to(best)
        classical = _best(by_method, [name for name in present if name != OWN_BASELINE])
        classical_ratios = ratios_to(classical) if classical else None
        worst = max(range(len(ratios)), key=ratios.__getitem__)
        return cell._replace(
            ratio=geometric_mean(ratios),
            interval=ratio_interval(
                errors[MODEL],
                [errors[name] for name in present],
                [row.field for row in images],
            ),
            share_better=fmean(ratio < 1 for ratio in ratios),
            worst_ratio=ratios[worst],
            worst_image=models[worst].image,
            classical_ratio=geometric_mean(classical_ratios) if classical_ratios else None,
            classical_worst_ratio=max(classical_ratios) if classical_ratios else None,
        )


def _best(by_method: Mapping[str, Sequence[Row]], names: Iterable[str]) -> str | None:
    """The method of the lowest geometric-mean RMSE; None of none."""
    errors = {name: _typical(row.rmse for row in by_method[name]) for name in names}
    return min(errors, key=errors.__getitem__, default=None)


def _typical(errors: Iterable[float]) -> float:
    return geometric_mean(max(error, _SMALLEST) for error in errors)


def _calibration(rows: Sequence[Row]) -> Calibration | None:
    ratios = [row.expected_rmse / max(row.rmse, _SMALLEST) for row in rows if row.expected_rmse]
    if len(ratios) < len(rows):
        return None
    return Calibration(geometric_mean(ratios), min(ratios), max(ratios))


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return grouped(rows, lambda row: row.method)


def plain(value: Any) -> Any:
    """Named tuples as dictionaries, what is not finite as None."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
