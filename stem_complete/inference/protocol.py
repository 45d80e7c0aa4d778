"""The evaluation protocol: a model beside tuned classical baselines, the same way every time.

Spirals of a probe at constant speed and those that the published code draws, true coverages from
1/10 to 1/87, without noise and with the published detection noise, a few crops of each field of
view, and one seed: the same data and weights give the same numbers, bit for bit on one kind of
processor. The probe measures the micrograph as it is, and errors are those against the micrograph
blurred by 5x5 px, sigma 2.5 px, as in the papers' losses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import scipy
import torch

import stem_complete
from stem_complete.data.examples import Split
from stem_complete.errors import DataError
from stem_complete.evaluation import CompletionExample, completion_figure, rmse, run_baselines
from stem_complete.inference.completer import Completer
from stem_complete.inference.known import (
    RANGE,
    Data,
    KnownMicrograph,
    KnownScan,
    coverage_label,
    is_store_alone,
    load_micrographs,
    simulate,
)
from stem_complete.inference.progress import Progress
from stem_complete.inference.protocol_report import FIRST, MODEL, ProtocolReport, ProtocolRow, Worst
from stem_complete.scan import (
    GEOMETRIES,
    NoiseModel,
    NoNoise,
    ReferenceNoise,
    ScanSimulator,
)

COVERAGES = (1 / 10, 1 / 17.9, 1 / 20, 1 / 50, 1 / 87)
NOISES: dict[str, NoiseModel] = {"none": NoNoise(), "reference": ReferenceNoise()}
METHODS = ("nearest", "normalised_convolution", "harmonic", "spline", "total_variation")
"""Those baselines whose time is no issue."""

MAX_PER_FIELD = 4
"""Crops of a field of view, so that none dominates."""

BLUR_SIGMA_PX = 2.5
SEED = 0
NUM_WORST = 10


def run_protocol(
    data: Data,
    *,
    completer: Completer | None = None,
    split: Split = "test",
    progress: Progress | None = None,
) -> ProtocolReport:
    """Errors of the model, if there is one, and of the baselines on the same scans.

    Micrographs from files that the model was trained on are left out.

    Args:
        data: A micrograph store, or files and folders of complete micrographs, which are cut into
            crops of 512 px as for a store.
        completer: The model.
        split: Of the store; files are taken whole.
        progress: Called after each scan.

    Raises:
        DataError: There are no usable micrographs.
    """
    micrographs, left_out = _micrographs(data, completer, split)
    rows: list[ProtocolRow] = []
    cells = list(product(GEOMETRIES, COVERAGES, NOISES))
    for geometry, coverage, noise in cells:
        scans = simulate_protocol(micrographs, coverage, noise, geometry)
        for micrograph, scan in zip(micrographs, scans, strict=True):
            rows.append(_row(scan, geometry, noise, micrograph.field, completer))
            if progress:
                progress(len(rows), len(cells) * len(micrographs))
    setup = {
        "model": completer.card.name if completer else None,
        "model_sha256": completer.card.weights_sha256 if completer else None,
        "data_sha256": _data_hash(micrographs),
        "images": [
            {"name": crop.name, "field": Path(crop.field).name, "file_sha256": crop.sha256}
            for crop in micrographs
        ],
        "split": split if is_store_alone(data) else None,
        "max_images_per_field": MAX_PER_FIELD,
        "geometries": list(GEOMETRIES),
        "coverages": [coverage_label(coverage) for coverage in COVERAGES],
        "noises": list(NOISES),
        "truth_blur_sigma_px": BLUR_SIGMA_PX,
        "seed": SEED,
        "device": completer.device.type if completer else None,
        "versions": {
            "stem_complete": stem_complete.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }
    return ProtocolReport(rows, setup, left_out)


def draw_worst(
    worst: Sequence[Worst],
    path: Path,
    data: Data,
    *,
    completer: Completer | None = None,
    split: Split = "test",
) -> None:
    """Writes a PNG with a row for each scan: truth, scan, best baseline, model, error.

    Without a model, the best baseline's completion takes its place.

    Args:
        worst: Of the report on the same data and model.
        path: File to write or replace.
        data: As for `run_protocol`.
        completer: As for `run_protocol`.
        split: As for `run_protocol`.
    """
    micrographs, _ = _micrographs(data, completer, split)
    labels = {coverage_label(coverage): coverage for coverage in COVERAGES}
    examples = []
    for row, baseline in worst:
        # Drawn again: to keep the images of all scans would take gigabytes.
        micrograph = next(c for c in micrographs if (c.name, c.field) == (row.image, row.field))
        (scan,) = simulate_protocol([micrograph], labels[row.coverage], row.noise, row.geometry)
        noisy = row.noise != "none"
        classical = run_baselines(scan.intensity, scan.dwell, [baseline], noisy=noisy)
        image = classical[baseline].image
        examples.append(
            CompletionExample(
                name=row.image,
                truth=scan.truth,
                intensity=scan.intensity,
                baseline=image if completer else None,
                completion=_complete(completer, scan) if completer else image,
                intensity_range=RANGE,
                note=f"{row.geometry}, {row.coverage}, noise {row.noise}",
            )
        )
    completion_figure(examples, path, baseline_name="Best baseline")


def simulate_protocol(
    micrographs: Sequence[KnownMicrograph],
    coverage: float,
    noise: str,
    geometry: str = "archimedean",
) -> Iterator[KnownScan]:
    """The protocol's scan of each micrograph.

    Args:
        micrographs: Of one shape.
        coverage: True mean dwell.
        noise: One of `NOISES`.
        geometry: One of `GEOMETRIES`.
    """
    height, width = micrographs[0].pixels.shape
    simulator = ScanSimulator(
        GEOMETRIES[geometry]((height, width), coverage),
        NOISES[noise],
        augment=False,
        blur_sigma_px=BLUR_SIGMA_PX,
        seed=SEED,
        sample="original",
    )
    return simulate(micrographs, simulator, coverage)


def _micrographs(
    data: Data, completer: Completer | None, split: Split
) -> tuple[list[KnownMicrograph], list[str]]:
    """What the model has not seen, and what was left out."""
    micrographs, left_out = load_micrographs(data, split=split, max_per_field=MAX_PER_FIELD)
    trained_on = {source.sha256 for source in completer.card.training_data} if completer else set()
    unseen = [crop for crop in micrographs if crop.sha256 not in trained_on]
    left_out += [f"{crop.name}: trained on" for crop in micrographs if crop.sha256 in trained_on]
    if not unseen:
        raise DataError(
            expected="micrographs that the model was not trained on",
            found=f"{len(micrographs)} crops of training files",
            where="data",
            fix="evaluate on other files",
        )
    return unseen, left_out


def _row(
    scan: KnownScan, geometry: str, noise: str, field: str, completer: Completer | None
) -> ProtocolRow:
    results = run_baselines(scan.intensity, scan.dwell, METHODS, noisy=noise != "none")
    images = {name: result.image for name, result in results.items()}
    if completer is not None:
        first = completer.first_completion(scan.intensity, scan.dwell)
        images |= {} if first is None else {FIRST: first}
        images[MODEL] = _complete(completer, scan)
    return ProtocolRow(
        image=scan.image,
        field=field,
        geometry=geometry,
        coverage=scan.coverage,
        noise=noise,
        rmse={
            method: rmse(scan.truth, image, intensity_range=RANGE)
            for method, image in images.items()
        },
        unblurred_rmse={
            method: rmse(scan.unblurred, image, intensity_range=RANGE)
            for method, image in images.items()
        },
    )


def _complete(completer: Completer, scan: KnownScan) -> np.typing.NDArray[np.float32]:
    return completer.complete(scan.intensity, scan.dwell, intensity_range=RANGE).image


def _data_hash(micrographs: Sequence[KnownMicrograph]) -> str:
    """SHA-256 of the crops: their names, sizes and pixels."""
    digest = hashlib.sha256()
    for crop in micrographs:
        digest.update(f"{crop.name} {crop.pixels.shape}\n".encode())
        digest.update(crop.pixels.tobytes())
    return digest.hexdigest()
