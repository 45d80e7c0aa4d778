"""Scans of Direct Electron's FreeScan: coordinates, what the server says of them, and MRC files."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.formats.samples import Samples
from stem_complete.data.formats.tables import read_csv
from stem_complete.errors import DataError
from stem_complete.extras import require

COORDINATES = "_scan_coordinates.csv"
_MOVIE = re.compile(r"(?:_\d+)?_movie")
MOVIE = "movie"
_FINAL = "final"  # the sum of all frames


def coordinates_of(path: Path) -> Path | None:
    """The coordinates that a file of a FreeScan belongs to; None if it is of no such scan."""
    if path.name.endswith(COORDINATES):
        return path
    if path.suffix.lower() != ".mrc":
        return None
    candidates = path.parent.glob(f"*{COORDINATES}")
    return next((c for c in candidates if path.name.startswith(f"{_prefix(c)}_")), None)


def detector_of(path: Path, coordinates: Path) -> str | None:
    """The name of the detector that an MRC file of a FreeScan is of; None for the coordinates."""
    if path == coordinates:
        return None
    name = path.stem.removeprefix(f"{_prefix(coordinates)}_")
    return MOVIE if _MOVIE.fullmatch(f"_{name}") else name


def files_of(coordinates: Path) -> list[Path]:
    """Every file of the scan: coordinates, information, and the MRC files of its detectors."""
    prefix = _prefix(coordinates)
    info = coordinates.with_name(f"{prefix}_info.txt")
    images = sorted(coordinates.parent.glob("*.mrc"))
    own = [path for path in images if coordinates_of(path) == coordinates]
    return [coordinates, *([info] if info.exists() else []), *own]


def read_freescan(coordinates: Path) -> Samples:
    """Positions in time order, and a column for each detector.

    The detectors are MRC files beside the coordinates: of the camera, `movie`, the sum of each
    frame; of external and virtual detectors their values, one for each point in time order or an
    image of the scan.

    Raises:
        DataError: Files are missing, or do not fit the number of points.
        MissingPackageError: RosettaSciIO is not installed.
    """
    samples = read_csv(coordinates)
    prefix = _prefix(coordinates)
    info = _info(coordinates.with_name(f"{prefix}_info.txt"))
    size = "ROI Size" if info.get("Scan - ROI Enable") == "Enable" else "Size"
    sides = [info.get(f"Scan - {size} {axis}", "") for axis in "YX"]
    if all(side.isdigit() for side in sides):
        samples.metadata["shape"] = " ".join(sides)
    pixel_nm = float(info.get("Specimen Pixel Size X (nanometers)", -1))
    if pixel_nm > 0:
        samples.metadata["pixel_size_nm"] = pixel_nm
    x, y = (samples.columns[name].astype(int) for name in "xy")
    for path in files_of(coordinates):
        name = detector_of(path, coordinates)
        if path.suffix.lower() != ".mrc" or name in (None, _FINAL):
            continue
        values = _values(path, x, y)
        if values is None:
            samples.notes.append(
                f"{path.name} has no value for each of the {counted(len(x), 'point')}"
            )
        else:
            samples.columns[str(name)] = values
    if len(samples.columns) < 3:
        raise DataError(
            expected="an MRC file of a detector beside the coordinates",
            found="none that fits",
            where=coordinates,
            fix=f"copy {prefix}_movie.mrc, or the image of a detector, beside it",
        )
    return samples


def _values(path: Path, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """One value for each point, in time order; None if it has other ones."""
    require("rsciio", purpose=f"reading {path.name}")
    # Without its metadata, or RosettaSciIO would sort frames into an image that has gaps.
    (signal,) = import_module("rsciio.mrc").file_reader(str(path), lazy=True, metadata_file=None)
    data = signal["data"]
    num = len(x)
    if data.ndim == 3 and len(data) == num:
        return np.asarray(data.sum(axis=(1, 2), dtype=np.float64).compute())
    if data.ndim == 2 and data.shape[0] > y.max() and data.shape[1] > x.max():
        return np.asarray(data.compute(), dtype=np.float64)[y, x]
    if data.size == num:
        return np.asarray(data.compute(), dtype=np.float64).ravel()
    return None


def _info(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _prefix(coordinates: Path) -> str:
    return coordinates.name.removesuffix(COORDINATES)
