"""Partial scans -> completed images: a loop that reads, completes and writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from stem_complete.data.formats.published import decode_published
from stem_complete.data.formats.scans import read_scans, sources_of
from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import ConfigError, DataError, MissingPackageError
from stem_complete.files import sha256
from stem_complete.inference.completer import CompletedScan, Completer, check_side
from stem_complete.inference.image_files import IMAGE_ALONE, Outputs, why_again, write_completion
from stem_complete.inference.scan_files import ScanFiles, plan_files
from stem_complete.vocabulary import format_coverage

Progress = Callable[[int, int], None]
"""Called after each item of long work with the number done and the total."""

GPU_BATCH_SIZE = 8
_FAMILIAR_COVERAGE = 2.0  # by this factor a scan's coverage may differ from the model's


@dataclass
class CompleteReport:
    """What became of the scans. Files are named as they were found.

    Attributes:
        done: Completed image of each scan that was completed.
        skipped: Completed image of each scan that had one already.
        failed: Why a scan could not be read or completed.
        notes: What to know of a completed scan.
    """

    done: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


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
            checks = [completer.self_check(scan) if self_check else None for scan in batch]
            completions = completer.complete_scans(
                batch, error_map=error_map, checks=checks, keep_measured=keep_measured
            )
            for scan, completion, check in zip(batch, completions, checks, strict=True):
                yield CompletedScan(scan, completion, completer.card, check)


def complete_files(
    scans: Sequence[str | Path],
    completer: Completer,
    output: str | Path,
    *,
    dwell: str | Path | None = None,
    along: str | Path | None = None,
    options: ScanOptions = AS_STORED,
    published: bool = False,
    outputs: Outputs = IMAGE_ALONE,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> CompleteReport:
    """Completes files of partial scans; those that are done already are passed over.

    Scans that cannot be read are listed and the others go on. The same call again completes what is
    missing after an interruption, and what was made from other bytes, by another model or with
    other options, which a note tells. Scans of one file become one stack of images.

    Args:
        scans: Files, folders and globs.
        completer: The model.
        output: Folder for `<name>_completed.tif`, or a `.tif` for a single scan; see `plan_files`.
        dwell: File, folder or pattern of the dwell maps; see `plan_files`.
        along: Likewise of the paths of scans that have no positions.
        options: What the files do not say.
        published: The files are encoded as those that the authors of partial-STEM published.
        outputs: What is written beside the completed images.
        batch_size: As for `complete_scans`.
        progress: Called after each scan.

    Raises:
        ConfigError: The arguments do not go together.
        DataError: There is no scan at all, or the output cannot be written.
    """
    _check_arguments(completer, dwell, along, published=published, error_map=outputs.error_map)
    plan = plan_files(scans, Path(output), dwell, along)
    report = CompleteReport(failed=plan.failed)
    total = len(plan.files) + len(plan.failed)

    def tell() -> None:
        if progress:
            progress(len(report.done) + len(report.skipped) + len(report.failed), total)

    settings = (
        f"{options} {published=} precision={completer.precision} self_check={outputs.self_check} "
        f"keep_measured={outputs.keep_measured}"
    ).encode()
    same_for_all = {
        "model": completer.card.weights_sha256,
        "options": hashlib.sha256(settings).hexdigest(),
    }
    hash_of = cache(_hash_of)  # of a dwell map that all scans share, once
    begun: list[_Begun] = []

    def unfinished() -> Iterator[RasterScan]:
        for files in plan.files:
            try:
                made_from = {**_hashes(files, hash_of), **same_for_all}
                why = "" if outputs.overwrite else why_again(files.image, outputs, made_from)
                if why is not None:
                    rasters = _read(files, options, published=published)
                    begun.append(_Begun(files, made_from, len(rasters), why))
                    yield from rasters
                    continue
                report.skipped[str(files.scan)] = str(files.image)
            except (DataError, MissingPackageError, OSError) as error:
                report.failed[str(files.scan)] = str(error)
            tell()

    completions = complete_scans(
        completer,
        unfinished(),
        error_map=outputs.error_map,
        self_check=outputs.self_check,
        keep_measured=outputs.keep_measured,
        batch_size=batch_size,
    )
    for completed in completions:
        files, made_from, num_scans, why = begun[len(report.done)]
        stack = [completed, *islice(completions, num_scans - 1)]
        write_completion(stack, files.image, outputs, made_from)
        report.done[str(files.scan)] = str(files.image)
        notes = [why, *(note for each in stack for note in each.scan.notes)]
        notes += map(_unfamiliar, stack)
        notes += [each.check.note for each in stack if each.check]
        if told := "; ".join(dict.fromkeys(filter(None, notes))):
            report.notes[str(files.scan)] = told
        tell()
    return report


class _Begun(NamedTuple):
    """Files that are being completed, what is stored of them, and why they are done again."""

    files: ScanFiles
    made_from: dict[str, str]
    num_scans: int
    why: str


def _hashes(files: ScanFiles, hash_of: Callable[[Path], str]) -> dict[str, str]:
    """Hashes of the files of a scan, by what they are.

    Readers tell of what is missing or no file. A pipe would be waited for for ever.
    """
    parts = {"scan": files.scan, "dwell map": files.dwell, "path": files.along}
    return {
        name: hash_of(path)
        for name, path in parts.items()
        if path and (path.is_file() or path.is_dir())
    }


def _hash_of(path: Path) -> str:
    return hashlib.sha256("".join(map(sha256, sources_of(path))).encode()).hexdigest()


def _read(files: ScanFiles, options: ScanOptions, *, published: bool) -> list[RasterScan]:
    scans = read_scans(files.scan, files.dwell, options, along=files.along)
    rasters = [scan.raster() for scan in scans]
    if published:
        rasters = list(map(decode_published, rasters))
    for raster in rasters:
        check_side(raster)
    return rasters


def _check_arguments(
    completer: Completer,
    dwell: str | Path | None,
    along: str | Path | None,
    *,
    published: bool,
    error_map: bool,
) -> None:
    if dwell is not None and along is not None:
        raise ConfigError(
            expected="dwell maps of images, or the path of samples",
            found="both",
            where="dwell",
            fix="leave one out",
        )
    if published and dwell is None:
        raise ConfigError(
            expected="the masks of published scans",
            found="none",
            where="dwell",
            fix="give them, for example mask-{number}.tif",
        )
    if error_map and completer.card.calibration is None:
        raise ConfigError(
            expected="a model with a calibrated error map",
            found=f"none in {completer.card.name}",
            where="error_map",
            fix="export the model again from a store with a validation split, or leave out the map",
        )


def _unfamiliar(completed: CompletedScan) -> str:
    """A note on a coverage that the model was not trained for."""
    coverage, card = completed.scan.coverage, completed.model
    trained = sorted({card.coverage, *card.more_coverages})
    if trained[0] / _FAMILIAR_COVERAGE <= coverage <= trained[-1] * _FAMILIAR_COVERAGE:
        return ""
    known = " to ".join(map(format_coverage, dict.fromkeys((trained[-1], trained[0]))))
    return (
        f"coverage {format_coverage(coverage)}, but {card.name} was trained at {known}: completion "
        "and error map may be off"
    )
