"""Which dimensions of an array are an image's, by what its file says of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stem_complete.data.formats.pixel_size import nanometres, square
from stem_complete.data.formats.units import Quantity, parse_unit

_ROWS = {"y", "height", "row", "rows", "ry", "r_y"}
_COLUMNS = {"x", "width", "column", "columns", "rx", "r_x"}
_CHANNELS = {"c", "channel", "channels", "detector", "detectors", "segment", "segments"}

_OF_PATTERNS = r"[qkg][ _]?[xy]"  # qx, k_y
# Signal types of HyperSpy's extensions. Virtual images are made of patterns, and are images.
_DIFFRACTION = (
    r"(?!virtual).*(?:diffraction|pattern|ebsd|cbed|nbed|saed|kikuchi|ronchigram)"
    r"|(?:lazy)?_?(?:polar|power|correlation)(?:_?(?:signal|spectrum))?_?(?:2d)?$"
)
_OF_DIFFRACTION: set[Quantity] = {"reciprocal", "angle"}

# Shorter than this [px] is no side of a micrograph.
_SHORTEST_SIDE = 16


class Axis(NamedTuple):
    """One dimension of an array, as far as its file describes it.

    Attributes:
        name: Its name, "" where it has none.
        step: From one entry to the next, in `unit`.
        unit: As the file spells it.
        scanned: Whether the probe moved along it, where that is said: true for the positions of a
            spectrum image, false for the pixels of an image.
        labels: Names of its entries, such as detectors.
    """

    name: str = ""
    step: object = None
    unit: object = None
    scanned: bool | None = None
    labels: tuple[str, ...] = ()


class Arrangement(NamedTuple):
    """The dimensions of an array by their role.

    Attributes:
        channels: Those that tell signals apart, such as detectors.
        frames: Those along which an image is repeated.
        rows: The one along y.
        columns: The one along x.
        pixel_size_nm: Side of a pixel [nm], if known.
    """

    channels: tuple[int, ...]
    frames: tuple[int, ...]
    rows: int
    columns: int
    pixel_size_nm: float | None


class NoImageError(Exception):
    """Says of an array what it is if it is no image and no stack of images."""


def by_position(shape: Sequence[int], pixel_size_nm: float | None = None) -> Arrangement:
    """The arrangement of an array [h, w] or [n, h, w] of which nothing is said.

    Raises:
        NoImageError: It has other dimensions, or a last one that is too short.
    """
    # Writers of five-dimensional images leave the dimensions they do not use at length 1.
    if len(shape) < 2 or any(size != 1 for size in shape[:-3]):
        raise NoImageError(f"{len(shape)}-D data {tuple(shape)}")
    *frames, rows, columns = range(len(shape))
    if len(shape) > 2 and shape[-1] < _SHORTEST_SIDE <= min(shape[-3:-1]):
        raise NoImageError(
            f"{shape[-1]} values a pixel, shape {tuple(shape)}, which may be detectors or colours; "
            "save detectors along the first axis or as files of their own, colours in grey"
        )
    return Arrangement((), tuple(frames), rows, columns, pixel_size_nm)


def by_axes(shape: Sequence[int], axes: Sequence[Axis], kind: str = "") -> Arrangement:
    """The arrangement of an array whose dimensions are described.

    Args:
        shape: Its shape.
        axes: Its dimensions, as many.
        kind: HyperSpy's `signal_type`, such as `EELS`.

    Raises:
        NoImageError: It holds spectra, diffraction patterns or the like.
    """
    if kind.upper().startswith(("EDS", "EELS")):
        raise NoImageError(f"{kind} spectra, shape {tuple(shape)}")
    if _is_diffraction(kind):
        raise NoImageError(f"diffraction patterns ({kind}), shape {tuple(shape)}")
    rows, columns = _image_axes(shape, axes)
    _check_units(shape, axes, rows, columns)
    size = square(*(nanometres(axes[i].step, axes[i].unit) for i in (rows, columns)))
    if not any(axis.name or axis.labels or axis.scanned is not None for axis in axes):
        return by_position(shape, size)
    others = [i for i in range(len(shape)) if i not in (rows, columns)]
    channels = [i for i in others if _is_channel(axes[i])]
    frames = [i for i in others if i not in channels]
    if not all(axes[i].name for i in frames) and _num_long(shape, frames) > 1:
        raise NoImageError(f"{len(shape)}-D data {tuple(shape)}")
    return Arrangement(tuple(channels), tuple(frames), rows, columns, size)


def _image_axes(shape: Sequence[int], axes: Sequence[Axis]) -> tuple[int, int]:
    """Rows and columns: by name if both have one, else the last two that are not scanned."""
    pixels = [i for i, axis in enumerate(axes) if not axis.scanned and not _is_channel(axis)]
    scanned = [i for i, axis in enumerate(axes) if axis.scanned]
    if not pixels and len(scanned) == 2:  # what the sum of each spectrum or pattern gives
        return scanned[0], scanned[1]
    if len(pixels) < 2:
        raise NoImageError(f"a spectrum or plot, shape {tuple(shape)}")
    is_told = any(axis.scanned is not None for axis in axes)
    if _num_long(shape, scanned) > 1 or (is_told and len(pixels) > 2):
        raise NoImageError(f"{len(shape)}-D data {tuple(shape)}")
    along_line = [i for i in scanned if axes[i].name.lower() in _ROWS | _COLUMNS]
    if _num_long(shape, along_line):
        raise NoImageError(f"patterns along a line of the probe, shape {tuple(shape)}")
    rows = [i for i in pixels if axes[i].name.lower() in _ROWS]
    columns = [i for i in pixels if axes[i].name.lower() in _COLUMNS]
    if len(rows) == len(columns) == 1:
        return rows[0], columns[0]
    return pixels[-2], pixels[-1]


def _is_channel(axis: Axis) -> bool:
    return bool(axis.labels) or axis.name.lower() in _CHANNELS


def _check_units(shape: Sequence[int], axes: Sequence[Axis], rows: int, columns: int) -> None:
    """Refuses diffraction patterns and spectra."""
    quantities = [parse_unit(axis.unit).quantity for axis in axes]
    image = {quantities[rows], quantities[columns]}
    reciprocal = [i for i, quantity in enumerate(quantities) if quantity in _OF_DIFFRACTION]
    if all(re.fullmatch(_OF_PATTERNS, axes[i].name.lower()) for i in (rows, columns)):
        raise NoImageError(f"diffraction patterns by their axes, shape {tuple(shape)}")
    # A single angle beside an image is the tilt of its stage.
    if image & _OF_DIFFRACTION or len(reciprocal) > 1:
        units = ", ".join(dict.fromkeys(str(axes[i].unit) for i in reciprocal))
        raise NoImageError(f"diffraction patterns, shape {tuple(shape)}, in {units}")
    if "energy" in quantities or "time" in image:
        raise NoImageError(f"a spectrum or plot, shape {tuple(shape)}")


def _is_diffraction(kind: str) -> bool:
    return bool(re.match(_DIFFRACTION, kind.lower()))


def _num_long(shape: Sequence[int], axes: Iterable[int]) -> int:
    return sum(shape[i] > 1 for i in axes)


def step_of(positions: Sequence[float]) -> float | None:
    """Distance of evenly spaced positions; None if there is one only."""
    if len(positions) < 2:
        return None
    step = (float(positions[-1]) - float(positions[0])) / (len(positions) - 1)
    return step if math.isfinite(step) else None
