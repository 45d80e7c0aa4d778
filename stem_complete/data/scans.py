"""Files -> partial scans: measured intensities and dwell on the pixel grid.

The authors' published examples have an encoding of their own, which `read_published_scan` undoes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.errors import DataError


class RasterScan(NamedTuple):
    """A partial scan on the pixel grid.

    Attributes:
        intensity: Mean over the dwell in each pixel [h, w] float32, in detector units, NaN where
            nothing was measured.
        dwell: Time spent in each pixel [h, w] float32, in full pixel dwells; 0 where not measured.
        pixel_size_nm: Side of a pixel [nm], None if unknown.
        path: File of the intensities.
    """

    intensity: NDArray[np.float32]
    dwell: NDArray[np.float32]
    pixel_size_nm: float | None
    path: Path


def read_scan(path: str | Path, dwell_path: str | Path | None = None) -> RasterScan:
    """A partial scan from an image file of any supported format.

    Where it was measured, a dwell file says; or `dwell` beside `intensity` in an NPZ; or NaN in
    the image; or, if it has no NaN, zero. Without dwell map each measured pixel has dwell 1. A
    dwell map of whole numbers, such as an 8-bit mask, is divided by its maximum.

    Raises:
        DataError: A file cannot be read or holds several images, the shapes differ, nothing was
            measured, a measured pixel is NaN or Inf, all are equal, or the dwell map is negative
            or on average over 1.
    """
    path = Path(path)
    images = read_file(path, masks=True).micrographs
    named = {image.name: image for image in images}
    if dwell_path is None and len(images) == 2 and set(named) == {"intensity", "dwell"}:
        return _raster_scan(named["intensity"], _dwell(named["dwell"]))
    image = _only(images)
    if dwell_path is None:
        return _raster_scan(image, None)
    dwell_map = _only(read_file(Path(dwell_path), masks=True).micrographs)
    return _raster_scan(image, _dwell(dwell_map))


def read_published_scan(scan_path: str | Path, mask_path: str | Path) -> RasterScan:
    """A partial scan from a file of partial-STEM's examples and its dwell map.

    The files hold (det + 1) / S on the path and 0 elsewhere, with det = d (d x + 2 (1 - d) U b) of
    dwell d, true intensity x in [-1, 1], noise U and blurred intensity b, and S = 1 + max det (Ede
    and Beanland 2020, code at github.com/Jeffrey-Ede/partial-STEM). S is not stored: it is
    estimated here, on the published files to 0.2%. The intensity is det / d, in [-1, 1] but for
    noise.

    Raises:
        DataError: As `read_scan`; or the files are not in this encoding.
    """
    scan = read_scan(scan_path, mask_path)
    dwell = scan.dwell
    encoded = np.nan_to_num(scan.intensity, nan=0.0)
    measured = dwell > 0
    scale = published_scale(encoded[measured], dwell[measured])
    if not (0.5 < scale <= 2.2 and encoded.min() >= 0 and encoded.max() <= 1 + 1e-6):
        raise DataError(
            expected="intensities encoded as in partial-STEM's examples, (det + 1) / (1 + max det)",
            found=f"values from {encoded.min():g} to {encoded.max():g} that do not fit",
            where=scan.path,
            fix="read it as an ordinary partial scan",
        )
    intensity = np.full_like(scan.intensity, np.nan)
    intensity[measured] = (encoded[measured] * scale - 1) / dwell[measured]
    return scan._replace(intensity=intensity)


def published_scale(encoded: NDArray[np.float32], dwell: NDArray[np.float32]) -> float:
    """S of a published file from its measured pixels [n]; NaN if they do not determine it.

    On average U is 1/2, so encoded = (1 + d^2 mean(x) + d (1 - d) mean(b)) / S: a fit that is
    linear in 1/S, mean(x) / S and mean(b) / S. Shorter dwells, nearer to encoded = 1/S, have noise
    in proportion to d, hence the weights.
    """
    d = dwell.astype(np.float64)
    terms = np.stack([np.ones_like(d), d**2, d * (1 - d)], axis=1) / d[:, None]
    solution, _, rank, _ = np.linalg.lstsq(terms, encoded / d)
    return float(1 / solution[0]) if rank == 3 and solution[0] > 0 else float("nan")


def _only(images: list[Micrograph]) -> Micrograph:
    if len(images) > 1:
        raise DataError(
            expected="one image, or `intensity` and `dwell` in an NPZ file",
            found=f"{len(images)} images",
            where=images[0].path,
            fix="save the partial scan and its dwell map as files of their own",
        )
    return images[0]


def _dwell(image: Micrograph) -> Micrograph:
    dwell = image.pixels
    if not np.isfinite(dwell).all() or dwell.min() < 0 or not dwell.any():
        raise DataError(
            expected="dwell times of 0 and above, some above",
            found="NaN or Inf"
            if not np.isfinite(dwell).all()
            else f"{dwell.min()} to {dwell.max()}",
            where=image.path,
        )
    if dwell.dtype.kind in "iu":
        return Micrograph(dwell / dwell.max(), None, image.name, image.frame, image.path)
    if dwell.mean() > 1:
        raise DataError(
            expected="dwell in full pixel dwells, on average (the coverage) at most 1",
            found=f"{dwell.mean():g} on average",
            where=image.path,
            fix="divide it by the dwell time of a full pixel",
        )
    return image


def _raster_scan(image: Micrograph, dwell_map: Micrograph | None) -> RasterScan:
    intensity: NDArray[Any] = image.pixels
    if dwell_map is not None and dwell_map.pixels.shape != intensity.shape:
        raise DataError(
            expected=f"a dwell map of the scan's shape, {intensity.shape}",
            found=f"{dwell_map.pixels.shape}",
            where=dwell_map.path,
        )
    missing = np.isnan(intensity)
    if dwell_map is not None:
        measured = dwell_map.pixels > 0
        dwell = dwell_map.pixels.astype(np.float32)
    else:
        measured = ~missing if missing.any() else intensity != 0
        dwell = measured.astype(np.float32)
    values = intensity[measured].astype(np.float64)
    num_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if not values.size or num_bad or values.min() == values.max():
        raise DataError(
            expected="measured intensities that are finite and not all equal",
            found=(
                "no measured pixel"
                if not values.size
                else f"{num_bad} measured pixels NaN or Inf"
                if num_bad
                else f"{values[0]:g} in all {values.size} measured pixels"
            ),
            where=image.path,
        )
    pixels = np.where(measured, intensity, np.nan).astype(np.float32)
    return RasterScan(pixels, dwell, image.pixel_size_nm, image.path)
