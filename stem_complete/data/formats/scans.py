"""Files of partial scans: measured intensities and dwell on the pixel grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError


def read_scan(path: str | Path, dwell_path: str | Path | None = None) -> RasterScan:
    """A partial scan from an image file of any supported format.

    Where it was measured, a dwell file says; or `dwell` beside `intensity` in an NPZ; or NaN in
    the image; or, if it has no NaN, zero. Without dwell map each measured pixel has dwell 1. A
    dwell map of whole numbers, such as an 8-bit mask, is divided by its maximum.

    Args:
        path: File of the intensities.
        dwell_path: File of the dwell map.

    Raises:
        DataError: A file cannot be read or holds several images, the shapes differ, nothing was
            measured, a measured pixel is NaN or Inf, all are equal, or the dwell map is negative
            or on average over 1.
    """
    image, dwell_map = _images(path, dwell_path)
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


def _images(
    path: str | Path, dwell_path: str | Path | None
) -> tuple[Micrograph, Micrograph | None]:
    """Image of the intensities, and the dwell map if there is one."""
    paths = [path] if dwell_path is None else [path, dwell_path]
    files = [read_file(Path(each), masks=True).micrographs for each in paths]
    if dwell_path is None and sorted(image.name for image in files[0]) == ["dwell", "intensity"]:
        dwell_map, image = sorted(files[0], key=lambda each: each.name)
        return image, dwell_map
    for images in files:
        if len(images) > 1:
            raise DataError(
                expected="one image, or `intensity` and `dwell` in an NPZ file",
                found=f"{len(images)} images",
                where=images[0].path,
                fix="save the partial scan and its dwell map as files of their own",
            )
    return files[0][0], None if dwell_path is None else files[1][0]
