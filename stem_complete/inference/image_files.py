"""Completed images as files: ImageJ TIFF and PNG previews."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.errors import DataError
from stem_complete.files import atomic_file

DISPLAY_PERCENTILES = (0.5, 99.5)
"""Percentiles of the intensities shown as black and white, so that hot pixels do not matter."""


def write_tiff(
    path: Path, image: NDArray[np.float32], pixel_size_nm: float | None, info: dict[str, Any]
) -> None:
    """Writes a float32 TIFF that ImageJ and Fiji open with its scale and a fitting contrast.

    Args:
        path: File to write or replace.
        image: [h, w].
        pixel_size_nm: Side of a pixel [nm], if known.
        info: Shown by ImageJ's "Show Info", and returned by `read_info`.

    Raises:
        DataError: It cannot be written.
    """
    import tifffile

    low, high = display_range(image)
    metadata: dict[str, Any] = {"axes": "YX", "Info": json.dumps(info), "min": low, "max": high}
    resolution = None
    if pixel_size_nm is not None:
        metadata["unit"] = "nm"
        resolution = (1 / pixel_size_nm, 1 / pixel_size_nm)
    with _whole_file(path) as draft:
        tifffile.imwrite(
            draft, image, imagej=True, resolution=resolution, resolutionunit=1, metadata=metadata
        )


def read_info(path: Path) -> dict[str, Any]:
    """The `info` that `write_tiff` put into a file; empty if the file has none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            info = json.loads((tiff.imagej_metadata or {}).get("Info", "{}"))
    except (OSError, ValueError, tifffile.TiffFileError):
        return {}
    return info if isinstance(info, dict) else {}


def write_png(path: Path, image: NDArray[np.float32]) -> None:
    """Writes an 8-bit greyscale preview of `image` [h, w].

    Raises:
        DataError: It cannot be written.
    """
    import imagecodecs

    low, high = display_range(image)
    grey = np.clip((image - np.float32(low)) / np.float32((high - low) or 1), 0, 1)
    with _whole_file(path) as draft:
        draft.write_bytes(imagecodecs.png_encode((255 * grey).round().astype(np.uint8)))


def display_range(image: NDArray[Any]) -> tuple[float, float]:
    """Intensities to show as black and white; NaN pixels do not count."""
    low, high = np.nanpercentile(image, DISPLAY_PERCENTILES)
    return float(low), float(high)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """`atomic_file`, with an error that says how to go on."""
    try:
        with atomic_file(path) as draft:
            yield draft
    except OSError as error:
        raise DataError(
            expected="to write the completed image",
            found=error.strerror or str(error),
            where=path,
            fix="make room or choose another output, then run it again: it goes on where it was",
        ) from error
