"""Partial scans: a microscope's measurements, along its path or on the pixel grid.

Both types are checked once, in their constructors; whoever has one need not check it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from stem_complete.console import counted
from stem_complete.data.about import NOTHING, About, plain
from stem_complete.errors import DataError
from stem_complete.scan import ScanPath
from stem_complete.scan.raster import inside_image, spread

_LARGEST = float(np.finfo(np.float32).max) / 16
"""Of intensities, as completions are float32 and may go beyond the measured range."""


class RasterScan:
    """A partial scan on the pixel grid.

    A pixel is measured where its intensity is not NaN and its dwell not 0. Without dwell times, all
    that are not NaN have dwell 1. `conventions.raster_scan` makes one of images as people store
    them.

    Attributes:
        intensity: Mean over the dwell in each pixel [h, w] float64, in detector units, NaN where
            not measured.
        dwell: Time spent in each pixel [h, w] float32, in full pixel dwells, 0 where not measured.
        pixel_size_nm: Side of a pixel [nm], None if unknown.
        intensity_range: Lowest and highest intensity of the specimen, None if unknown.
        about: What its file says beside: title, unit of the intensities, how it was acquired.
        where: What errors name: the file or argument of the intensities.
        notes: What a user should know of how it was read.

    Args:
        intensity: As the attribute.
        dwell: As the attribute; None if the intensities tell what was measured.
        pixel_size_nm: As the attribute.
        intensity_range: As the attribute. Only models with the "reference" encoding need it; they
            take the measured range if it is unknown.
        about: As the attribute.
        where: As the attribute.
        dwell_where: The file or argument of the dwell times.
        notes: As the attribute.

    Raises:
        DataError: The scan cannot be completed.
    """

    def __init__(
        self,
        intensity: ArrayLike,
        dwell: ArrayLike | None = None,
        *,
        pixel_size_nm: float | None = None,
        intensity_range: tuple[float, float] | None = None,
        about: About = NOTHING,
        where: object = "partial scan",
        dwell_where: object = "dwell map",
        notes: Sequence[str] = (),
    ) -> None:
        values = real(intensity, where)
        if values.ndim != 2 or not values.size:
            raise DataError(
                expected="one scan [h, w]",
                found=f"shape {values.shape}",
                where=where,
                fix="give one image at a time",
            )
        if num_infinite := int((np.abs(values) > _LARGEST).sum()):
            raise DataError(
                expected="finite intensities that float32 can hold, or NaN where not measured",
                found=f"{num_infinite} infinite ones, or beyond {_LARGEST:g}",
                where=where,
                fix="set these to NaN, so that they count as not measured",
            )
        measured = ~np.isnan(values)
        if dwell is None:
            times = measured.astype(np.float32)
        else:
            exact = real(dwell, dwell_where)
            _check_dwell(exact, values.shape, dwell_where)
            measured &= exact > 0
            exact[~measured] = 0
            times = exact.astype(np.float32)
        if not measured.any():
            raise DataError(
                expected="at least one measured pixel",
                found="none",
                where=where,
                fix="leave it out: the detector was off"
                if dwell is None
                else "give its own dwell map: this one is 0 wherever the scan has values",
            )
        if intensity_range is not None:
            _check_range(intensity_range)
        values[~measured] = np.nan
        self.intensity: NDArray[np.float64] = values
        self.dwell: NDArray[np.float32] = times
        self.pixel_size_nm = pixel_size_nm
        self.intensity_range = intensity_range
        self.about = about
        self.where = where
        self.notes = tuple(notes)

    @property
    def name(self) -> str:
        """Name of the scan's file, or what else errors call it."""
        return self.where.name if isinstance(self.where, Path) else str(self.where).split("/")[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) [px]."""
        height, width = self.intensity.shape
        return height, width

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Where the scan measured, [h, w]."""
        return ~np.isnan(self.intensity)

    @property
    def coverage(self) -> float:
        """Mean of the dwell map."""
        return float(self.dwell.astype(np.float64).mean())

    @property
    def measured_range(self) -> tuple[float, float]:
        """Lowest and highest measured intensity."""
        return float(np.nanmin(self.intensity)), float(np.nanmax(self.intensity))

    def mean_and_std(self) -> tuple[float, float]:
        """Dwell-weighted mean and standard deviation of the measured intensities."""
        weight = self.dwell[self.measured] / self.dwell.sum(dtype=np.float64)
        intensity = self.intensity[self.measured]
        mean = (weight * intensity).sum()
        return float(mean), float(np.sqrt((weight * (intensity - mean) ** 2).sum()))

    def unit(self) -> NDArray[np.float64]:
        """Intensities [h, w] with the measured range scaled to [0, 1]; 0 where not measured."""
        low, high = self.measured_range
        scaled = (self.intensity - low) / ((high - low) or 1.0)
        return np.where(self.measured, scaled, 0.0)

    def raster(self) -> RasterScan:
        """The scan itself."""
        return self


class PathScan:
    """A partial scan along the path of the probe.

    Samples more than half a pixel outside the image are ignored, as `ScanPath.dwell_map` does;
    several samples in one place are averaged by their dwell.

    Attributes:
        path: Where the probe was and how long: positions [n, 2], dwell [n], shape.
        intensity: Of each sample [n] float64, in detector units.
        times_s: When each sample began [n] [s], None if unknown.
        pixel_size_nm: Side of a pixel [nm], None if unknown.
        unit: Unit of the intensities, "" if unknown.
        metadata: What else is known of the scan.
        notes: What a user should know of how it was read.

    Args:
        positions: (x, y) of the samples in time order [n, 2] [px]; pixel centres are whole numbers.
        dwell: Time spent on each [n], in full pixel dwells, 0 or more.
        intensity: As the attribute.
        shape: (h, w) of the image [px].
        times_s: As the attribute.
        pixel_size_nm: As the attribute.
        unit: As the attribute.
        metadata: As the attribute.
        where: What errors name, such as the scan's file.
        notes: As the attribute.

    Raises:
        DataError: The scan cannot be completed.

    Example:
        >>> path = archimedean((128, 128), "1/20")
        >>> scan = PathScan(path.positions, path.dwell, np.zeros(len(path.dwell)), path.shape)
        >>> image, error = completer.complete_scan(scan)           # doctest: +SKIP
    """

    def __init__(
        self,
        positions: ArrayLike,
        dwell: ArrayLike,
        intensity: ArrayLike,
        shape: tuple[int, int],
        *,
        times_s: ArrayLike | None = None,
        pixel_size_nm: float | None = None,
        unit: str = "",
        metadata: Mapping[str, Any] | None = None,
        where: object = "path scan",
        notes: Sequence[str] = (),
    ) -> None:
        self.intensity = real(intensity, where)
        self.times_s = None if times_s is None else real(times_s, where)
        self.pixel_size_nm = pixel_size_nm
        self.unit = unit
        self.metadata = dict(metadata or {})
        self._where = where
        self.notes = tuple(notes)
        try:
            self.path = ScanPath(
                torch.from_numpy(real(positions, where)),
                torch.from_numpy(real(dwell, where)),
                shape,
            )
        except ValueError as error:
            raise DataError(
                expected="positions (x, y) [n, 2] and dwell [n] on an image",
                found=str(error),
                where=where,
                fix="correct the columns of positions and dwell times",
            ) from None
        self._check()

    def raster(self) -> RasterScan:
        """The scan on the pixel grid.

        Its dwell map is that of the path; intensities are means weighted by what each sample's
        dwell adds to a pixel of that map.
        """
        # On [0, 1], so that a small contrast on a large offset survives.
        measured = self._inside & (self.path.dwell.numpy() > 0)
        low, high = self.intensity[measured].min(), self.intensity[measured].max()
        samples = torch.from_numpy((self.intensity - low) / ((high - low) or 1.0))
        positions, dwell, shape = self.path.positions, self.path.dwell.double(), self.path.shape
        total, weight = (spread(positions, v, shape).numpy() for v in (dwell * samples, dwell))
        np.divide(total, weight, out=total, where=weight > 0)
        del weight
        # Rounding may leave a mean outside the range of its samples.
        np.clip(total, 0, 1, out=total)
        total *= high - low
        total += low
        told = plain(self.metadata)
        return RasterScan(
            total,
            self.path.dwell_map().numpy(),
            pixel_size_nm=self.pixel_size_nm,
            about=About(str(told.pop("title", "")), self.unit, told),
            where=self._where,
            dwell_where=self._where,
            notes=self.notes,
        )

    def _check(self) -> None:
        num, values = len(self.path.positions), self.intensity
        times = values if self.times_s is None else self.times_s
        expected = found = fix = ""
        if values.shape != (num,) or times.shape != (num,):
            shape = values.shape if values.shape != (num,) else times.shape
            expected, found = f"a value for each of {counted(num, 'position')}", f"shape {shape}"
            fix = "give the intensities and times that belong to this path"
        elif not np.isfinite(values).all():
            expected = "finite intensities"
            found = f"{int((~np.isfinite(values)).sum())} NaN or infinite ones"
            fix = "leave these samples out"
        elif self.times_s is not None and not (np.diff(times) >= 0).all():
            expected, found = "samples in time order", "times that fall"
            fix = "sort the samples by their times"
        elif not (self._inside & (self.path.dwell.numpy() > 0)).any():
            expected = f"a sample with dwell in the image of {self.path.shape} (h, w) px"
            found = f"none among {num}"
            fix = "give positions (x, y) in px, counted from the centre of the first pixel"
        if found:
            raise DataError(expected=expected, found=found, where=self._where, fix=fix)
        # Of the dwell map: what the probe's width spreads over the border does not count.
        _check_coverage(self.path.coverage, self._where)

    @property
    def _inside(self) -> NDArray[np.bool_]:
        """Whether each sample is in the image [n]."""
        inside: NDArray[np.bool_] = inside_image(self.path.positions, self.path.shape).numpy()
        return inside


def real(values: ArrayLike, where: object) -> NDArray[np.float64]:
    """A copy of the values in double precision.

    Raises:
        DataError: They are no real numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(
            expected="real numbers",
            found=f"{array.dtype} values",
            where=where,
            fix="save them as integers or floats, such as the magnitude of complex values",
        )
    return array.astype(np.float64)


def _check_dwell(dwell: NDArray[np.float64], shape: tuple[int, ...], where: object) -> None:
    found = ""
    expected, fix = "finite dwell times of 0 or more", "set them to 0 where the probe never was"
    if dwell.shape != shape:
        expected, found = f"the scan's shape {shape}", f"{dwell.shape}"
        fix = "give the dwell map that belongs to this scan"
    elif not np.isfinite(dwell).all():
        found = f"{int((~np.isfinite(dwell)).sum())} NaN or infinite ones"
    elif (dwell < 0).any():
        found = f"{int((dwell < 0).sum())} negative ones"
    if found:
        raise DataError(expected=expected, found=found, where=where, fix=fix)
    _check_coverage(float(dwell.mean()), where)


def _check_coverage(mean_dwell: float, where: object) -> None:
    """Refuses dwell times in seconds or counts, and masks of 0 and 255."""
    # Dwell maps of dense paths are rounded to float32.
    if mean_dwell > 1 + 1e-6:
        raise DataError(
            expected="dwell times in units of a full pixel dwell, their mean (the coverage) at "
            "most 1",
            found=f"a mean of {mean_dwell:.3g}",
            where=where,
            fix="divide them by the dwell time that a full scan spends in a pixel, or give that "
            "time and its unit, such as --full-dwell 10 --dwell-unit us",
        )


def _check_range(intensity_range: tuple[float, float]) -> None:
    low, high = intensity_range
    if not (np.isfinite((low, high)).all() and low < high):
        raise DataError(
            expected="a finite intensity range (low, high), low < high",
            found=f"({low}, {high})",
            where="intensity_range",
            fix="give the lower intensity first, then the higher one",
        )
