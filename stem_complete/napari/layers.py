"""Scans and completions as napari's layers, and layers as scans.

What is known of a layer is `layer.metadata["stem_complete"]`: what it `shows`, which file or layer
it is `of`, and what completed images say of themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.about import About
from stem_complete.data.conventions import raster_scan
from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.inference.image_files import described, display_range

LayerData = tuple[Any, dict[str, Any], str]
"""Data, attributes and type of a layer, as napari's plugins hand it over."""

OWN = "stem_complete"
SCAN, DWELL, COMPLETION, ERROR = "partial scan", "dwell map", "completion", "expected error"
"""What a layer shows."""

_COLOURS = {SCAN: "gray", DWELL: "viridis", COMPLETION: "gray", ERROR: "inferno"}
_FROM_ZERO = {DWELL, ERROR}
_VISIBLE = {SCAN, COMPLETION}
_PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def image_layer(
    data: Any, name: str, shows: str, place: Mapping[str, Any], known: Mapping[str, Any]
) -> LayerData:
    """An image layer.

    Args:
        data: Image [h, w] or stack [..., h, w]; a list of these is a pyramid.
        name: Of the layer.
        shows: SCAN, DWELL, COMPLETION or ERROR: colours, contrast and visibility go by that.
        place: Scale, units and the like, as from `place_of`.
        known: What is known of it beside.
    """
    # Of a pyramid the smallest level, as the largest may not fit in memory.
    looked_at = data[-1] if isinstance(data, list) else data
    attributes: dict[str, Any] = {
        "name": name,
        "colormap": _COLOURS[shows],
        "visible": shows in _VISIBLE,
        "metadata": {OWN: {**known, "shows": shows}},
        **place,
    }
    first = np.asarray(looked_at[(0,) * (looked_at.ndim - 2)])
    if not np.isnan(first).all():
        low, high = display_range(first)
        low = min(0.0, low) if shows in _FROM_ZERO else low
        attributes["contrast_limits"] = (low, high) if low < high else (low, low + 1)
    if isinstance(data, list):
        attributes["multiscale"] = True
    return data, attributes, "image"


def place_of(pixel_size_nm: float | None, ndim: int = 2) -> dict[str, Any]:
    """Scale and units of an image or stack: nanometres, or pixels if the size is unknown."""
    others = ndim - 2
    size = pixel_size_nm if pixel_size_nm and math.isfinite(pixel_size_nm) else None
    return {
        "scale": (1.0,) * others + (size or 1.0,) * 2,
        "units": ("pixel",) * others + ("nm" if size else "pixel",) * 2,
        "axis_labels": ("frame", "y", "x")[-ndim:],
    }


def scan_layers(scans: Sequence[RasterScan], name: str, of: str) -> list[LayerData]:
    """A layer of the dwell map and one of the intensities, NaN where not measured.

    Args:
        scans: One scan, or several of one shape, which become a stack.
        name: Of the layer of intensities.
        of: Where they come from, by which a dwell map finds its scan.
    """
    first = scans[0]
    intensity = _stacked([scan.intensity.astype(np.float32) for scan in scans])
    dwell = _stacked([scan.dwell for scan in scans])
    place = place_of(first.pixel_size_nm, intensity.ndim)
    notes = list(dict.fromkeys(note for scan in scans for note in scan.notes))
    known = {**described(first), "of": of, "notes": notes, "coverage": first.coverage}
    return [
        image_layer(dwell, f"{name} dwell", DWELL, place, {"of": of}),
        image_layer(intensity, name, SCAN, place, known),
    ]


def known_of(layer: Any) -> dict[str, Any]:
    """What this plugin knows of a layer; empty if it is not one of its own."""
    known = layer.metadata.get(OWN, {})
    return dict(known) if isinstance(known, Mapping) else {}


def belongs(dwell: Any, scan: Any) -> bool:
    """Whether a layer is the dwell map of another one, as far as this plugin knows."""
    of, other = known_of(scan).get("of"), known_of(dwell)
    return of is not None and other.get("shows") == DWELL and other.get("of") == of


class Source(NamedTuple):
    """A layer that is to be completed, as it was when that was asked for.

    Attributes:
        name: Of the layer.
        data: Image [h, w] or stack [n, h, w] of intensities.
        dwell: Its dwell map [h, w] or maps [n, h, w], None if the intensities tell it.
        options: How they are to be read.
        place: Scale, units and other transformations of the layer, which those of its completion
            are.
        pixel_size_nm: Side of a pixel [nm], None if unknown or not the same along both axes.
        about: What is known of it.
    """

    name: str
    data: Any
    dwell: Any
    options: ScanOptions
    place: Mapping[str, Any]
    pixel_size_nm: float | None
    about: About

    @property
    def num_scans(self) -> int:
        """Number of frames."""
        return 1 if self.data.ndim == 2 else len(self.data)

    def scan(self, number: int) -> RasterScan:
        """One of its scans.

        Raises:
            DataError: It cannot be completed.
            ConfigError: An option makes no sense.
        """
        where = self.name if self.data.ndim == 2 else f"{self.name}, frame {number}"
        return raster_scan(
            np.asarray(self.data if self.data.ndim == 2 else self.data[number]),
            None
            if self.dwell is None
            else np.asarray(self.dwell if self.dwell.ndim == 2 else self.dwell[number]),
            options=self.options,
            pixel_size_nm=self.pixel_size_nm,
            about=self.about,
            where=where,
            dwell_where="dwell map",
        )


def source_of(layer: Any, dwell: Any = None, options: ScanOptions = AS_STORED) -> Source:
    """What is to be completed.

    Args:
        layer: Image layer of intensities.
        dwell: Image or labels layer of dwell times, or None.
        options: Value of what was not measured, and the full dwell. They do not count where this
            plugin has read the scan, and its dwell map, from a file.

    Raises:
        DataError: A layer is no image and no stack of them.
    """
    known, data = known_of(layer), _array_of(layer)
    times = None if dwell is None else _array_of(dwell)
    if times is not None and times.ndim == 3 and times.shape != data.shape:
        raise DataError(
            expected=f"one dwell map, or one for each scan: shape {data.shape}",
            found=f"shape {times.shape}",
            where=dwell.name,
            fix="choose the dwell map that belongs to this scan",
        )
    if known.get("shows") == SCAN:
        options = ScanOptions(unmeasured=math.nan)
    if dwell is not None and known_of(dwell).get("shows") == DWELL:
        options = ScanOptions(unmeasured=options.unmeasured, dwell_unit="full")
    state = layer.as_layer_data_tuple()[1]
    about = About(
        str(known.get("title") or layer.name),
        str(known.get("intensity_unit", "")),
        known.get("acquisition", {}),
    )
    place = {name: state[name] for name in _PLACE}
    return Source(layer.name, data, times, options, place, pixel_size_nm_of(layer), about)


def pixel_size_nm_of(layer: Any) -> float | None:
    """Side of a layer's pixel [nm], None if its units are no lengths, or its pixels no squares."""
    sides = [float(step) * unit for step, unit in zip(layer.scale, layer.units, strict=True)][-2:]
    if not all(side.check("[length]") for side in sides):
        return None
    height, width = (float(side.to("nm").magnitude) for side in sides)
    return height if math.isclose(height, width, rel_tol=1e-6) else None


def _array_of(layer: Any) -> Any:
    """A layer's array, of a pyramid the largest.

    Raises:
        DataError: It is no image and no stack.
    """
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    if getattr(layer, "rgb", False) or data.ndim not in (2, 3):
        raise DataError(
            expected="an image [h, w] or a stack [n, h, w] of intensities",
            found="a colour image" if getattr(layer, "rgb", False) else f"shape {data.shape}",
            where=layer.name,
            fix="choose another layer, or split this one into stacks",
        )
    return data


def _stacked(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return images[0] if len(images) == 1 else np.stack(images)
