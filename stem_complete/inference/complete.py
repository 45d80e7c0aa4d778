"""Files of partial scans -> files of completed images; many of them, and safe to interrupt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import stem_complete
from stem_complete.data.scans import RasterScan, read_published_scan, read_scan
from stem_complete.errors import ConfigError, DataError
from stem_complete.inference.completer import Completer, Completion
from stem_complete.inference.image_files import read_info, write_png, write_tiff
from stem_complete.inference.measurement import check_scans
from stem_complete.inference.progress import Progress
from stem_complete.inference.scan_files import Job, plan_jobs

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

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(asdict(self), indent=2)


class _Loaded(NamedTuple):
    job: Job
    scan: RasterScan


def complete_files(
    scans: Sequence[str | Path],
    completer: Completer,
    output: str | Path,
    *,
    dwell: str | Path | None = None,
    published: bool = False,
    png: bool = False,
    error_map: bool = False,
    overwrite: bool = False,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> CompleteReport:
    """Completes files of partial scans; those that are done already are passed over.

    For each scan `<name>_completed.tif` is written, a float32 ImageJ TIFF in the intensity units
    and with the pixel size of the scan. Scans that cannot be read are listed and the others go on.
    The same call again completes what is missing after an interruption.

    Args:
        scans: Files, folders and globs.
        completer: The model.
        output: Folder, or a `.tif` for a single scan; see `jobs.plan_jobs`.
        dwell: File, folder or pattern of the dwell maps; see `jobs.plan_jobs`.
        published: The files are encoded as those that the authors of partial-STEM published, with
            intensities of the specimen in [-1, 1].
        png: Also write `<name>_completed.png`, a preview.
        error_map: Also write `<name>_error.tif`, the expected RMS error of each pixel.
        overwrite: Complete again what is there already.
        batch_size: Scans of one shape that are completed together; None: 8 on a GPU, else 1.
        progress: Called after each scan.

    Raises:
        ConfigError: The arguments do not go together.
        DataError: There is no scan at all, or the output cannot be written.
    """
    _check_arguments(completer, dwell, published=published, error_map=error_map)
    jobs, failed = plan_jobs(scans, Path(output), dwell)
    report = CompleteReport(failed=failed)
    total = len(jobs) + len(failed)

    def tell() -> None:
        if progress:
            progress(len(report.done) + len(report.skipped) + len(report.failed), total)

    def unfinished() -> Iterator[_Loaded]:
        for job in jobs:
            files = [job.image, *[job.preview] * png, *[job.error_map] * error_map]
            try:
                if overwrite or not _are_done(files, completer):
                    yield _Loaded(job, _read(job, published=published))
                    continue
                report.skipped[str(job.scan)] = str(job.image)
            except (DataError, OSError) as error:
                report.failed[str(job.scan)] = str(error)
            tell()

    size = batch_size or (GPU_BATCH_SIZE if completer.device.type == "cuda" else 1)
    for batch in _same_shape(unfinished(), size):
        completions = _complete(completer, batch, published=published, error_map=error_map)
        for (job, scan), completion in zip(batch, completions, strict=True):
            _write(job, scan, completion, completer, png=png, error_map=error_map)
            report.done[str(job.scan)] = str(job.image)
            note = _unfamiliar(scan, completer)
            if note:
                report.notes[str(job.scan)] = note
            tell()
    return report


def _check_arguments(
    completer: Completer, dwell: str | Path | None, *, published: bool, error_map: bool
) -> None:
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


def _are_done(files: list[Path], completer: Completer) -> bool:
    """Whether all outputs are there.

    Raises:
        DataError: The image that is there is not this model's: it would pass for it.
    """
    image = files[0]
    if not image.exists():
        return False
    model = read_info(image).get("model_sha256")
    if model != completer.card.weights_sha256:
        raise DataError(
            expected=f"no image, or one completed by {completer.card.name}",
            found="one of another model" if model else "another image",
            where=image,
            fix="choose another output folder or ask to overwrite",
        )
    return all(file.exists() for file in files)


def _read(job: Job, *, published: bool) -> RasterScan:
    """The scan, which can be completed."""
    if published:
        assert job.dwell is not None
        scan = read_published_scan(job.scan, job.dwell)
    else:
        scan = read_scan(job.scan, job.dwell)
    try:
        check_scans(scan.intensity, scan.dwell, num_axes=2)
    except DataError as error:
        file = job.dwell if error.where == "dwell map" and job.dwell else job.scan
        raise DataError(
            expected=error.expected, found=error.found, where=file, fix=error.fix
        ) from None
    return scan


def _same_shape(scans: Iterator[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    """Neighbouring scans of one shape, at most `size` at a time."""
    for _, group in groupby(scans, key=lambda loaded: loaded.scan.intensity.shape):
        while batch := list(islice(group, size)):
            yield batch


def _complete(
    completer: Completer, batch: Sequence[_Loaded], *, published: bool, error_map: bool
) -> list[Completion]:
    images, errors = completer.complete_batch(
        np.stack([scan.intensity for _, scan in batch]),
        np.stack([scan.dwell for _, scan in batch]),
        intensity_range=(-1, 1) if published else None,
        error_map=error_map,
    )
    if errors is None:
        return [Completion(image) for image in images]
    return [Completion(image, error) for image, error in zip(images, errors, strict=True)]


def _write(
    job: Job,
    scan: RasterScan,
    completion: Completion,
    completer: Completer,
    *,
    png: bool,
    error_map: bool,
) -> None:
    info: dict[str, Any] = {
        "software": f"stem-complete {stem_complete.__version__}",
        "scan": job.scan.name,
        "model": completer.card.name,
        "model_sha256": completer.card.weights_sha256,
    }
    if error_map and completion.error is not None:
        shows = {"shows": "expected root mean square error of each pixel"}
        write_tiff(job.error_map, completion.error, scan.pixel_size_nm, info | shows)
    if png:
        write_png(job.preview, completion.image)
    # Last, as it says that the scan is done.
    shows = {"shows": "completed partial scan"}
    write_tiff(job.image, completion.image, scan.pixel_size_nm, info | shows)


def _unfamiliar(scan: RasterScan, completer: Completer) -> str | None:
    """A note on a coverage that the model was not trained for."""
    coverage, card = float(np.mean(scan.dwell)), completer.card
    trained = sorted({card.coverage, *card.more_coverages})
    if trained[0] / _FAMILIAR_COVERAGE <= coverage <= trained[-1] * _FAMILIAR_COVERAGE:
        return None
    known = " to ".join(f"1/{1 / limit:.3g}" for limit in dict.fromkeys((trained[-1], trained[0])))
    return (
        f"coverage 1/{1 / coverage:.3g}, but {card.name} was trained at {known}: completion and "
        "error map may be off"
    )
