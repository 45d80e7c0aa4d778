"""What a job has completed: each scan as a single completion, and all of it as a ZIP."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import read_file
from stem_complete.inference.completer import CompletedScan, Completion
from stem_complete.inference.image_files import (
    COMPLETION_CHANNEL,
    ERROR_CHANNEL,
    error_map_of,
    is_ome_zarr,
    read_info,
)
from stem_complete.inference.self_check import SelfCheck
from stem_complete.serving.service.bodies import read_body
from stem_complete.serving.service.completing import Done
from stem_complete.serving.service.jobs import Job, stem_of
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.problems import not_found

_BLOCK = 2**20


def completed(job: Job, name: str, limits: Limits) -> Done:
    """The completion of one scan, as it was written; it isn't completed again.

    Args:
        job: That has it.
        name: Of the scan, as it was sent.
        limits: What is taken.

    Raises:
        Problem: 404, if it is not there, or not yet.
    """
    image, body, card = job.image_of(name), job.bodies().get(stem_of(name)), job.model
    info = read_info(image) if image.exists() else {}
    if body is None or card is None or info.get("model_sha256") != card.weights_sha256:
        raise not_found("a scan of this job that is completed", "see `completed` of the job")
    scan = read_body(body, job.options, limits)
    scan.where = body.name
    error = _pixels(image, ERROR_CHANNEL) if job.how.error_map and card.calibration else None
    completion = Completion(_pixels(image, COMPLETION_CHANNEL), error)
    check = _check(*info["self_check"]) if "self_check" in info else None
    return Done(CompletedScan(scan, completion, card, check), batch_size=1, waited_s=0.0)


def _pixels(image: Path, channel: str) -> NDArray[np.float32]:
    if is_ome_zarr(image):
        (found,) = read_file(image, channel).micrographs
    else:
        is_error = channel == ERROR_CHANNEL
        (found,) = read_file(error_map_of(image) if is_error else image).micrographs
    return found.pixels.astype(np.float32)


def _check(told: Mapping[str, Any]) -> SelfCheck:
    """A self-check from what `completion_info` tells of it, where NaN is null."""
    fields = {name: told[name] for name in SelfCheck._fields}
    for name in ("error", "deviation"):
        fields[name] = math.nan if fields[name] is None else fields[name]
    return SelfCheck(**fields)


def zipped(files: Iterable[Path]) -> Iterator[bytes]:
    """Files, and folders with all in them, as a ZIP, as it is made: nothing is kept of it."""
    written = _Written()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            for each in sorted(file.rglob("*")) if file.is_dir() else [file]:
                if each.is_file():
                    yield from _added(archive, each, str(each.relative_to(file.parent)), written)
    yield written.taken()


def _added(archive: zipfile.ZipFile, file: Path, name: str, written: _Written) -> Iterator[bytes]:
    entry = zipfile.ZipInfo.from_file(file, name)
    with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
        while block := source.read(_BLOCK):
            target.write(block)
            yield written.taken()


class _Written(io.RawIOBase):
    """Takes what is written, once; without places to go back to."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, block: Any) -> int:
        """Takes a part."""
        self._waiting += block
        return len(block)

    def taken(self) -> bytes:
        """All since this was called before."""
        found, self._waiting = bytes(self._waiting), bytearray()
        return found
