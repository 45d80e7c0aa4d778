"""Scores of completions of one scan against its truth, and a report of many."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import stem_complete
from stem_complete.evaluation.baselines import BASELINES
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.details import Examiner
from stem_complete.evaluation.known_scans import KnownScan, published_scans, simulate
from stem_complete.evaluation.methods import Method, Model, suiting
from stem_complete.evaluation.metrics import all_metrics, rmse
from stem_complete.evaluation.micrographs import Micrographs, published_micrographs
from stem_complete.evaluation.report import MODEL, Report, Row, grouped
from stem_complete.vocabulary import INTENSITY_RANGE


class Measures(NamedTuple):
    """What is measured of completions beside RMSE, PSNR and SSIM.

    Attributes:
        details: Resolution, and errors by distance from what was measured.
        atom_columns: Atom columns, where the crop shows a lattice.
    """

    details: bool = False
    atom_columns: bool = False


ERRORS_ALONE = Measures()


def setup_of(
    micrographs: Micrographs, conditions: Iterable[Condition], seed: int
) -> dict[str, Any]:
    """What a report says of the data and the conditions, as plain values."""
    return {
        "data": micrographs.sources,
        "data_sha256": micrographs.sha256(),
        "images": [
            {"name": crop.name, "field": Path(crop.field).name, "file_sha256": crop.sha256}
            for crop in micrographs.crops
        ],
        "split": micrographs.split,
        "max_images_per_field": micrographs.max_per_field,
        "conditions": [
            condition._asdict() | {"noise": condition.noise.model_dump()}
            for condition in conditions
        ],
        "seed": seed,
    }


def evaluate_published(
    methods: Mapping[str, Method],
    conditions: Iterable[Condition] = (),
    measures: Measures = ERRORS_ALONE,
) -> Report:
    """Scores of each method on the authors' own noisy scans, which come with the package.

    Args:
        methods: Completions of a scan, by the names of their rows.
        conditions: How else the same pictures are scanned.
        measures: What is measured.
    """
    scans = list(published_scans())
    data = [scan.image for scan in scans]
    for condition in conditions:
        scans += simulate(published_micrographs(), condition)
    rows = [row for scan in scans for row in scores(scan, methods, measures)]
    return report_of(rows, methods, {"data": data}, left_out=[])


def scores(
    scan: KnownScan, methods: Mapping[str, Method], measures: Measures = ERRORS_ALONE
) -> Iterator[Row]:
    """A row for each method that is for such scans."""
    labels = scan.geometry, scan.coverage, scan.noise
    examiner = None
    if measures != ERRORS_ALONE:
        examiner = Examiner(scan, atom_columns=measures.atom_columns)
    for name, method in suiting(methods, labels).items():
        started = time.perf_counter()
        image, error = method(scan)
        seconds = time.perf_counter() - started
        expected = None
        if error is not None and np.isfinite(error).all():
            # On [0, 1] errors are half of those on [-1, 1].
            expected = float(np.sqrt(np.mean(error.astype(np.float64) ** 2))) / 2
        yield Row(
            image=scan.image,
            field=scan.field,
            geometry=scan.geometry,
            coverage=scan.coverage,
            noise=scan.noise,
            method=name,
            **all_metrics(scan.truth, image, intensity_range=INTENSITY_RANGE)._asdict(),
            unblurred_rmse=rmse(scan.unblurred, image, intensity_range=INTENSITY_RANGE),
            expected_rmse=expected,
            seconds=seconds,
            pixel_size_nm=scan.pixel_size_nm,
            details=None if examiner is None else examiner.details(image),
        )


def report_of(
    rows: list[Row],
    methods: Mapping[str, Method],
    setup: dict[str, Any],
    left_out: list[str],
    failed: Sequence[str] = (),
) -> Report:
    """Rows with the models that they are of, the versions of libraries, and the baselines."""
    models = {name: m.completer for name, m in methods.items() if isinstance(m, Model)}
    model = models.pop(MODEL, None)
    of_models = {
        "model": model and model.card.name,
        "model_sha256": model and model.card.weights_sha256,
        "others_sha256": {name: other.card.weights_sha256 for name, other in models.items()},
        "device": model and model.device.type,
    }
    versions = {"stem_complete": stem_complete.__version__}
    versions |= {name: version(name) for name in ("torch", "numpy", "scipy")}
    # Not those of `methods`: rows that were kept may have more.
    baselines = tuple(name for name in grouped(rows, lambda row: row.method) if name in BASELINES)
    setup = of_models | setup | {"versions": versions}
    return Report(rows, setup, left_out, baselines, tuple(failed))
