"""Completions -> bodies of answers, in the format that was asked for."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.about import plain
from stem_complete.data.formats.ome_zarr_writer import OME_ZARR
from stem_complete.inference.image_files import (
    Outputs,
    completion_info,
    display_range,
    png_of,
    write_completion,
    write_tiff,
)
from stem_complete.serving.service.completing import Done, How
from stem_complete.serving.service.media import JSON, NPY, NPZ, PNG, TIFF, ZIP
from stem_complete.serving.service.problems import bad

_IN_HEADER = (
    "shape",
    "coverage",
    "pixel_size_nm",
    "model",
    "expected_error",
    "self_check",
    "notes",
)
_LONGEST_HEADER = 4000  # servers and proxies take 8 kB or more

Shown = Literal["image", "error"]
"""Which array formats of one array have."""


def in_header(told: dict[str, Any]) -> str:
    """JSON of what fits into a header, all of it ASCII; long notes are left out from the last."""
    kept = {name: told[name] for name in _IN_HEADER}
    while len(text := json.dumps(kept)) > _LONGEST_HEADER and kept["notes"]:
        kept["notes"] = kept["notes"][:-1]
    return text


def told_of(done: Done, how: How) -> dict[str, Any]:
    """What an answer says of itself: scan, model, options, self-check and notes, as plain JSON."""
    scan, completion, _, _ = done.completed
    info = completion_info([done.completed], _outputs(how), {}, {})
    checks = info.pop("self_check", None)
    lowest, highest = display_range(completion.image)
    error = completion.error
    return {
        **info,
        "shape": list(scan.shape),
        "coverage": scan.coverage,
        "pixel_size_nm": scan.pixel_size_nm,
        "display_range": [lowest, highest],
        "expected_error": None
        if error is None
        else plain(float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))),
        "self_check": checks[0] if checks else None,
        "notes": done.notes,
        "batch_size": done.batch_size,
        "waited_s": round(done.waited_s, 4),
    }


class Encoded(NamedTuple):
    """A completion in a format, and what it says of itself."""

    content: bytes
    told: dict[str, Any]


def encoded(done: Done, how: How, media: str, shown: Shown = "image") -> Encoded:
    """A completion in a format.

    Args:
        done: The completion.
        how: How it was made.
        media: One of `media.ANSWERS`. NPZ has `image`, `error`, the `scan` with NaN where it was
            not measured, its `dwell` map, and `about`, JSON in UTF-8; NPY, TIFF and PNG one array,
            all as float32 [h, w] but PNG, a preview of 8 bits; a ZIP holds an OME-Zarr.
        shown: Which array, of a format of one.

    Raises:
        Problem: The error map was asked for, but not to be estimated.
    """
    told = told_of(done, how)
    return Encoded(_content(done, how, media, shown, told), told)


def _content(done: Done, how: How, media: str, shown: Shown, told: dict[str, Any]) -> bytes:
    scan, (image, error), _, _ = done.completed
    if shown == "error" and error is None:
        raise bad("error_map=true, to show the error", "false", "leave it out", "query")
    array = error if shown == "error" and error is not None else image
    if media == JSON:
        return json.dumps(told).encode()
    if media == NPY:
        return _npy(array)
    if media == PNG:
        return png_of(array)
    if media == TIFF:
        file = io.BytesIO()
        write_tiff(file, array, scan.pixel_size_nm, told | {"shows": shown})
        return file.getvalue()
    if media == ZIP:
        return _ome_zarr(done, how)
    assert media == NPZ
    arrays: dict[str, NDArray[Any]] = {
        "image": image,
        **({} if error is None else {"error": error}),
        "scan": scan.intensity.astype(np.float32),
        "dwell": scan.dwell,
        "about": np.frombuffer(json.dumps(told).encode(), np.uint8),
    }
    return npz(arrays)


def npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Arrays as NPZ; stored, as compression takes longer than a local network."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _ome_zarr(done: Done, how: How) -> bytes:
    file = io.BytesIO()
    with TemporaryDirectory(prefix="stem-complete-") as folder:
        image = Path(folder, f"completed{OME_ZARR}")
        write_completion(done.completed, image, _outputs(how))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for each in sorted(image.rglob("*")):
                if each.is_file():
                    archive.write(each, each.relative_to(image.parent))
    return file.getvalue()


def _outputs(how: How) -> Outputs:
    return Outputs(
        error_map=how.error_map, self_check=how.self_check, keep_measured=how.keep_measured
    )
