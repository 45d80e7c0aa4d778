"""Partial scans -> completions: the middle of reading, completing and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import groupby, islice

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.distributed import one_thread
from stem_complete.inference.completer import CompletedScan, Completer
from stem_complete.vocabulary import format_coverage

Progress = Callable[[int, int], None]
"""Called after each item of long work with the number done and the total."""

GPU_BATCH_SIZE = 8
SMALL_PX = 256 * 256
"""Most pixels of a scan that one thread completes. More threads make such scans at most 1.3 times
as quick, and several times as slow where another process takes one of their cores."""

_FAMILIAR_COVERAGE = 2.0  # by this factor a scan's coverage may differ from the model's


def complete_scans(
    completer: Completer,
    scans: Iterable[RasterScan | PathScan],
    *,
    error_map: bool = False,
    self_check: bool = False,
    keep_measured: bool = False,
    batch_size: int | None = None,
) -> Iterator[CompletedScan]:
    """Completions of scans, in their order; scans are read as they are needed.

    Args:
        completer: The model.
        scans: Neighbours of one shape are completed together.
        error_map: Whether to estimate the error of each pixel.
        self_check: Whether to predict held-out parts of each scan, see `Completer.self_check`, and
            to leave out of its completion what they contradict.
        keep_measured: Whether to blend measured pixels back, see `Completer.complete_scan`.
        batch_size: Largest number of scans that are completed together; None: 8 on a GPU, else 1.

    Raises:
        DataError: A scan is too small.
    """
    size = batch_size or (GPU_BATCH_SIZE if completer.device.type == "cuda" else 1)
    rasters = (scan.raster() for scan in scans)
    for _, of_one_shape in groupby(rasters, key=lambda scan: scan.shape):
        while batch := list(islice(of_one_shape, size)):
            is_small = batch[0].intensity.size <= SMALL_PX
            with one_thread() if is_small else nullcontext():
                checks = [completer.self_check(scan) if self_check else None for scan in batch]
                completions = completer.complete_scans(
                    batch, error_map=error_map, checks=checks, keep_measured=keep_measured
                )
            for scan, completion, check in zip(batch, completions, checks, strict=True):
                yield CompletedScan(scan, completion, completer.card, check)


def unfamiliar(completed: CompletedScan) -> str:
    """A note on a coverage that the model was not trained for; "" of others."""
    coverage, card = completed.scan.coverage, completed.model
    trained = sorted({card.coverage, *card.more_coverages})
    if trained[0] / _FAMILIAR_COVERAGE <= coverage <= trained[-1] * _FAMILIAR_COVERAGE:
        return ""
    known = " to ".join(map(format_coverage, dict.fromkeys((trained[-1], trained[0]))))
    return (
        f"coverage {format_coverage(coverage)}, but the model was trained at {known}: completion "
        "and error map may be off"
    )
