"""Files of partial scans: measured intensities and dwell on the pixel grid.

The authors' published examples have an encoding of their own, which `read_published_scan` undoes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.vocabulary import INTENSITY_RANGE


def read_scan(
    path: str | Path, dwell_path: str | Path | None = None, *, published: bool = False
) -> RasterScan:
    """A partial scan from an image file of any supported format.

    Where it was measured, a dwell file says; or `dwell` beside `intensity` in an NPZ; or NaN in
    the image; or, if it has no NaN, zero. Without dwell map each measured pixel has dwell 1. A
    dwell map of whole numbers, such as an 8-bit mask, is divided by its maximum.

    Args:
        path: File of the intensities.
        dwell_path: File of the dwell map.
        published: The files are encoded as those that the authors of partial-STEM published; see
            `read_published_scan`.

    Raises:
        DataError: A file cannot be read or holds several images, the shapes differ, nothing was
            measured, a measured pixel is NaN or Inf, all are equal, or the dwell map is negative
            or on average over 1.
    """
    if published:
        if dwell_path is None:
            raise DataError(expected="the mask of a published scan", found="none", where=path)
        return read_published_scan(path, dwell_path)
    images = read_file(Path(path), masks=True).micrographs
    named = {image.name: image for image in images}
    if dwell_path is None and len(images) == 2 and set(named) == {"intensity", "dwell"}:
        return _raster_scan(named["intensity"], named["dwell"])
    image = _only(images)
    if dwell_path is None:
        return _raster_scan(image, None)
    return _raster_scan(image, _only(read_file(Path(dwell_path), masks=True).micrographs))


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
    measured, dwell = scan.measured, scan.dwell
    encoded = np.nan_to_num(scan.intensity, nan=0.0).astype(np.float32)
    scale = published_scale(encoded[measured], dwell[measured])
    if not (0.5 < scale <= 2.2 and encoded.min() >= 0 and encoded.max() <= 1 + 1e-6):
        raise DataError(
            expected="intensities encoded as in partial-STEM's examples, (det + 1) / (1 + max det)",
            found=f"values from {encoded.min():g} to {encoded.max():g} that do not fit",
            where=scan_path,
            fix="read it as an ordinary partial scan",
        )
    intensity = np.full_like(encoded, np.nan)
    intensity[measured] = (encoded[measured] * scale - 1) / dwell[measured]
    return RasterScan(
        intensity,
        dwell,
        pixel_size_nm=scan.pixel_size_nm,
        intensity_range=INTENSITY_RANGE,
        where=scan_path,
    )


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


def _raster_scan(image: Micrograph, dwell_map: Micrograph | None) -> RasterScan:
    dwell = None if dwell_map is None else dwell_map.pixels
    if dwell is not None and dwell.dtype.kind in "iu" and dwell.any():
        dwell = dwell / dwell.max()
    scan = RasterScan(
        image.pixels.astype(np.float32),
        dwell,
        pixel_size_nm=image.pixel_size_nm,
        where=image.path,
        dwell_where=image.path if dwell_map is None else dwell_map.path,
    )
    if dwell is not None and (num_missing := int(((dwell > 0) & ~scan.measured).sum())):
        raise DataError(
            expected="an intensity wherever the dwell map is above 0",
            found=f"{num_missing} NaN",
            where=image.path,
            fix="set the dwell map to 0 there",
        )
    if np.nanmin(scan.intensity) == np.nanmax(scan.intensity):
        raise DataError(
            expected="measured intensities that are not all equal",
            found=f"{np.nanmax(scan.intensity):g} in all {scan.measured.sum()} measured pixels",
            where=image.path,
        )
    return scan
