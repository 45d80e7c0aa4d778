"""Reader of microscopes' own files, through RosettaSciIO (the optional extra `microscopy`)."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from stem_complete.data.formats.pixel_size import is_reciprocal, nanometres, square
from stem_complete.data.formats.signals import Contents

PLUGINS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",  # Berkeley and Velox
    ".ser": "tia",
    ".emi": "tia",
    ".mrc": "mrc",
    ".bcf": "bruker",
    ".hspy": "hspy",
}


def read_instrument(path: Path, contents: Contents) -> None:
    """Offers every image of an instrument file; spectra, maps and diffraction are skipped.

    Raises:
        ModuleNotFoundError: RosettaSciIO is not installed.
    """
    plugin = import_module(f"rsciio.{PLUGINS[path.suffix.lower()]}")
    # Lazy: the spectra and diffraction patterns of a file can be far larger than its images.
    for number, signal in enumerate(plugin.file_reader(str(path), lazy=True)):
        general = signal["metadata"].get("General", {})
        kind = signal["metadata"].get("Signal", {}).get("signal_type", "")
        name = str(general.get("title", "")) or (f"signal {number}" if number else "")
        data, axes = signal["data"], signal["axes"]
        reason = _no_micrograph(data, axes, kind)
        if reason:
            contents.skip(name, reason)
            continue
        size_nm = square(_axis_nm(axes[-2]), _axis_nm(axes[-1]))
        # RosettaSciIO transposes Berkeley EMD files, though not all writers of them do; where the
        # axes have names, they tell.
        if [str(axis.get("name")).lower() for axis in axes[-2:]] == ["x", "y"]:
            data = data.swapaxes(-2, -1)
        contents.offer(name, data, size_nm)


def _no_micrograph(data: Any, axes: list[dict[str, Any]], kind: str) -> str | None:
    if kind.startswith(("EDS", "EELS")):
        return f"a {kind} spectrum image {data.shape}"
    # Bruker's images do not say which of their axes are scanned.
    signal_axes = [axis for axis in axes if not axis.get("navigate", False)]
    num_scanned = len(axes) - len(signal_axes)
    if len(signal_axes) != 2:
        return f"a spectrum or plot {data.shape}" if len(signal_axes) < 2 else _shape(data)
    if any(is_reciprocal(axis.get("units")) for axis in signal_axes):
        return f"diffraction patterns {data.shape}"
    return _shape(data) if num_scanned > 1 and math.prod(data.shape[:-3]) > 1 else None


def _shape(data: Any) -> str:
    return f"{len(data.shape)}-D data {data.shape}"


def _axis_nm(axis: dict[str, Any]) -> float | None:
    return nanometres(np.asarray(axis.get("scale", math.nan)).item(), axis.get("units"))
