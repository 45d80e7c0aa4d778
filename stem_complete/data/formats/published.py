"""The encoding of the partial scans that the authors of partial-STEM published as examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.scans import read_scan
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.vocabulary import INTENSITY_RANGE


def read_published_scan(scan_path: str | Path, mask_path: str | Path) -> RasterScan:
    """`decode_published` of a file of partial-STEM's examples and its dwell map."""
    return decode_published(read_scan(scan_path, mask_path).raster())


def decode_published(scan: RasterScan) -> RasterScan:
    """A scan as measured from one as it is encoded in the files of partial-STEM's examples.

    The files hold (det + 1) / S on the path and 0 elsewhere, with det = d (d x + 2 (1 - d) U b) of
    dwell d, true intensity x in [-1, 1], noise U and blurred intensity b, and S = 1 + max det (Ede
    and Beanland 2020, code at github.com/Jeffrey-Ede/partial-STEM). S is not stored: it is
    estimated here, on the published files to 0.2%. The intensity is det / d, in [-1, 1] but for
    noise.

    Raises:
        DataError: The scan is not in this encoding.
    """
    measured, dwell = scan.measured, scan.dwell
    encoded = np.nan_to_num(scan.intensity, nan=0.0).astype(np.float32)
    scale = published_scale(encoded[measured], dwell[measured])
    if not (0.5 < scale <= 2.2 and encoded.min() >= 0 and encoded.max() <= 1 + 1e-6):
        raise DataError(
            expected="intensities encoded as in partial-STEM's examples, (det + 1) / (1 + max det)",
            found=f"values from {encoded.min():g} to {encoded.max():g} that do not fit",
            where=scan.where,
            fix="read it as an ordinary partial scan",
        )
    intensity = np.full_like(encoded, np.nan)
    intensity[measured] = (encoded[measured] * scale - 1) / dwell[measured]
    return RasterScan(
        intensity,
        dwell,
        pixel_size_nm=scan.pixel_size_nm,
        intensity_range=INTENSITY_RANGE,
        about=scan.about,
        where=scan.where,
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
