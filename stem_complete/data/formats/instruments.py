"""Reader of microscopes' own files, through RosettaSciIO (the optional extra `microscopy`)."""

from __future__ import annotations

import re
from glob import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from stem_complete.data.formats.announced import check_announced
from stem_complete.data.formats.axes import Axis
from stem_complete.data.formats.damage import UnknownFormError
from stem_complete.data.formats.hdf5 import is_velox, read_hdf5
from stem_complete.data.formats.hyperspy_trees import about_signal
from stem_complete.data.formats.mrc import HEADER_BYTES, MrcHeader
from stem_complete.data.formats.pixel_size import nanometres
from stem_complete.data.formats.signals import Contents
from stem_complete.errors import DataError

PLUGINS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",  # of Velox
    ".ser": "tia",
    ".emi": "tia",
    ".mrc": "mrc",
    ".bcf": "bruker",
}

_METRE_NM = 1e9


def read_emd(path: Path, contents: Contents) -> None:
    """Offers every image of an EMD file, of Velox or of Berkeley and py4DSTEM.

    Raises:
        ModuleNotFoundError: It is of Velox, and RosettaSciIO is not installed.
    """
    if is_velox(path):
        read_instrument(path, contents)
    else:
        read_hdf5(path, contents)


def read_instrument(path: Path, contents: Contents) -> None:
    """Offers every image of an instrument file; spectra, maps and diffraction are skipped.

    Raises:
        DataError: It is an EMI file without its images.
        ModuleNotFoundError: RosettaSciIO is not installed.
    """
    for number, signal in enumerate(_signals(path)):
        general = signal["metadata"].get("General", {})
        kind = signal["metadata"].get("Signal", {}).get("signal_type", "")
        name = str(general.get("title", "")) or (f"signal {number}" if number else "")
        # Bruker's images do not say which of their axes are scanned.
        axes = [
            Axis(
                str(axis.get("name", "")),
                np.asarray(axis.get("scale")).item() if _has_step(signal, axis) else None,
                axis.get("units"),
                scanned=bool(axis.get("navigate", False)),
            )
            for axis in signal["axes"]
        ]
        if path.suffix.lower() == ".ser" and _is_in_inverse_metres(axes[-1]):
            contents.skip(name, "diffraction patterns, by their pixels of more than a metre")
        else:
            about = about_signal(signal["metadata"])
            contents.offer(name, signal["data"], axes=axes, kind=kind, about=about)


def _signals(path: Path) -> list[dict[str, Any]]:
    """The signals of a file, as RosettaSciIO has them.

    Lazy: the spectra and diffraction patterns of a file can be far larger than its images.
    """
    plugin = import_module(f"rsciio.{PLUGINS[path.suffix.lower()]}")
    check_announced(path)
    if path.suffix.lower() == ".mrc":
        return _mrc_signals(plugin, path)
    if path.suffix.lower() == ".emi" and not _check_series(path):
        raise DataError(
            expected=f"the images of an EMI file beside it, {path.stem}_1.ser and so on",
            found="none",
            where=path,
            fix="copy them into its folder",
        )
    if path.suffix.lower() == ".ser":
        # Only the EMI file says whether it is an image or a diffraction pattern.
        emi = path.with_name(re.sub(r"_\d+$", "", path.stem) + ".emi")
        try:
            _check_series(emi)
            pair: list[dict[str, Any]] = plugin.file_reader(str(emi), lazy=True)
        except Exception:  # it is missing, or damaged in any way: the images are still there
            pair = []
        own = [s for s in pair if s["metadata"]["General"]["original_filename"] == path.name]
        if own:
            return own
    signals: list[dict[str, Any]] = plugin.file_reader(str(path), lazy=True)
    return signals


def _check_series(emi: Path) -> list[Path]:
    """Checks the series of an EMI file, which are all read with it, and returns them."""
    found = list(emi.parent.glob(f"{escape(emi.stem)}_[0-9].ser"))
    for series in found:
        check_announced(series)
    return found


def _mrc_signals(plugin: Any, path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        header = MrcHeader(file.read(HEADER_BYTES))
    if header.has_half_bytes:
        raise UnknownFormError("pixels of 4 bits, which are not supported")
    signals: list[dict[str, Any]] = plugin.file_reader(
        str(path), lazy=True, endianness=header.order
    )
    for signal in signals:
        data = signal["data"]
        dtype = np.dtype(np.int8) if header.has_signed_bytes else data.dtype
        signal["data"] = data.view(dtype.newbyteorder(header.order))
    return signals


def _has_step(signal: dict[str, Any], axis: dict[str, Any]) -> bool:
    """Whether the file tells the step of an axis: RosettaSciIO takes 1 nm for an MRC without."""
    about = signal.get("original_metadata", {})
    sampling = f"M{axis.get('name', '')}".upper()  # in an MRC header: pixels along the cell
    header = {} if "fei_header" in about else about.get("std_header", {})
    return sampling not in header or bool(np.asarray(header[sampling]).item())


def _is_in_inverse_metres(axis: Axis) -> bool:
    """Whether it is an axis of a pattern: without an EMI file, RosettaSciIO takes 1/m for m."""
    step_nm = nanometres(axis.step, axis.unit)
    return step_nm is not None and step_nm > _METRE_NM
