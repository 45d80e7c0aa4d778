"""Writer of HyperSpy's signals, by RosettaSciIO (the optional extra `microscopy`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.about import About

HSPY = ".hspy"

_OWN = "stem_complete"


def write_hspy(
    path: Path,
    image: NDArray[np.float32],
    pixel_size_nm: float | None,
    about: About,
    info: Mapping[str, Any],
) -> None:
    """Writes a signal that HyperSpy opens as `Signal2D`, with pixel size, title and metadata.

    Args:
        path: File to write or replace.
        image: [h, w], or a stack [n, h, w].
        pixel_size_nm: Side of a pixel [nm], if known.
        about: Title, unit of the intensities, and parts of HyperSpy's metadata.
        info: JSON in the original metadata, which `read_hspy_info` returns.
    """
    from rsciio.hspy import file_writer

    of_source = {
        name: dict(part) for name, part in about.metadata.items() if isinstance(part, Mapping)
    }
    general = {**of_source.get("General", {}), "title": about.title}
    quantity = {"quantity": about.unit} if about.unit else {}
    signal = {
        "data": np.ascontiguousarray(image),
        "axes": [
            _axis(name, size, pixel_size_nm)
            for name, size in zip(("frame", "y", "x")[-image.ndim :], image.shape, strict=True)
        ],
        "metadata": {**of_source, "General": general, "Signal": {"signal_type": "", **quantity}},
        "original_metadata": {_OWN: json.dumps(info)},
        "package_info": {},  # HyperSpy would look for a class of signals in this package
        "learning_results": {},
        "models": {},
        "attributes": {"_lazy": False, "ragged": False},
        "tmp_parameters": {},
    }
    file_writer(str(path), signal, compression=None, shuffle=False, show_progressbar=False)


def read_hspy_info(file: Any) -> dict[str, Any]:
    """What a signal of this writer says of itself; empty if there is nothing.

    Args:
        file: Path, or open binary file.

    Raises:
        OSError: It is no HDF5 file.
        ValueError: What it says is no JSON.
    """
    import h5py

    with h5py.File(file, "r") as tree:
        for signal in tree.get("Experiments", {}).values():
            told = signal["original_metadata"].attrs if "original_metadata" in signal else {}
            if _OWN in told:
                return dict(json.loads(told[_OWN]))
    return {}


def _axis(name: str, size: int, pixel_size_nm: float | None) -> dict[str, Any]:
    is_scanned = name == "frame"  # in the words of HyperSpy: it navigates
    has_size = pixel_size_nm is not None and not is_scanned
    return {
        "_type": "UniformDataAxis",
        "name": name,
        "size": size,
        "scale": pixel_size_nm if has_size else 1.0,
        "offset": 0.0,
        "units": "nm" if has_size else None,
        "navigate": is_scanned,
        "is_binned": False,
    }
