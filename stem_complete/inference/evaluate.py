"""How well a model and classical baselines complete scans of micrographs that are known."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.config import Config, NoiseConfig, validate_config
from stem_complete.data.bundled import published_triples
from stem_complete.data.examples import Split
from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.scans import read_published_scan
from stem_complete.errors import ConfigError
from stem_complete.evaluation import all_metrics, rmse, run_baselines
from stem_complete.inference.completer import Completer
from stem_complete.inference.known import (
    RANGE,
    Data,
    KnownScan,
    coverage_label,
    is_store_alone,
    load_micrographs,
    simulate,
    sources_of,
)
from stem_complete.inference.progress import Progress
from stem_complete.inference.scorecard import EvaluationReport, EvaluationRow
from stem_complete.scan import blur
from stem_complete.training.simulation import build_simulator
from stem_complete.vocabulary import parse_coverage

MODEL = "model"
DEFAULT_BASELINES = (
    "nearest",
    "linear",
    "normalised_convolution",
    "harmonic",
    "spline",
    "total_variation",
)


def evaluate(
    data: Data,
    *,
    completer: Completer | None = None,
    coverages: Sequence[float | str | Fraction] = (),
    noise: NoiseConfig | None = None,
    baselines: Sequence[str] = DEFAULT_BASELINES,
    num_images: int = 32,
    seed: int = 0,
    split: Split = "test",
    progress: Progress | None = None,
) -> EvaluationReport:
    """Scores of completions of simulated scans, for a model, for baselines, or both.

    Scans are simulated as for the model's training, but without augmentation; without a model, as
    by the default config. What is not asked for in the arguments is so.

    Args:
        data: A micrograph store, or files and folders of complete micrographs, which are cut into
            crops of 512 px as for a store.
        completer: The model.
        coverages: Mean dwells, such as "1/20"; none given is the model's own.
        noise: How the detector sees the specimen.
        baselines: Names in `evaluation.BASELINES`.
        num_images: At most so many crops are taken, spread evenly over the data.
        seed: Of the noise.
        split: Of the store; files are taken whole.
        progress: Called after each scan.

    Raises:
        ConfigError: There is nothing to evaluate, or a coverage or baseline is not valid.
        DataError: There are no usable micrographs.
    """
    if completer is None and not baselines:
        raise ConfigError(expected="a model or baselines", found="neither", where="evaluate")
    config = _scan_config(completer, noise)
    models = {MODEL: completer} if completer is not None else {}
    fractions = list(dict.fromkeys(map(_coverage, coverages or (config.scan.coverage,))))
    micrographs, left_out = load_micrographs(data, split=split, max_images=num_images)
    rows: list[EvaluationRow] = []
    total = len(micrographs) * len(fractions)
    noisy = config.scan.noise.kind != "none"
    height, width = micrographs[0].pixels.shape
    for coverage in fractions:
        scan_config = config.scan.model_copy(update={"coverage": coverage})
        simulator = build_simulator(
            config.model_copy(update={"scan": scan_config}),
            (height, width),
            augment=False,
            seed=seed,
        )
        for done, scan in enumerate(simulate(micrographs, simulator, coverage)):
            rows += _score(scan, models, baselines, noisy)
            if progress:
                progress(len(micrographs) * fractions.index(coverage) + done + 1, total)
    setup = {
        "model": completer.card.name if completer else None,
        "model_sha256": completer.card.weights_sha256 if completer else None,
        "data": [str(source) for source in sources_of(data)],
        "split": split if is_store_alone(data) else None,
        "num_images": len(micrographs),
        "coverages": [coverage_label(coverage) for coverage in fractions],
        "scan": config.scan.model_dump(mode="json", exclude={"coverage", "augment"}),
        "seed": seed,
    }
    return EvaluationReport(rows, setup, left_out)


def evaluate_published(
    completer: Completer | None = None,
    baselines: Sequence[str] = DEFAULT_BASELINES,
    *,
    others: Mapping[str, Completer] | None = None,
) -> EvaluationReport:
    """Scores on the authors' own noisy scans, which come with the package.

    The truth is blurred by 5x5 px, sigma 2.5 px, as in the papers' losses.

    Args:
        completer: The model.
        baselines: Names in `evaluation.BASELINES`.
        others: Further models, by the names of their rows.
    """
    models = ({MODEL: completer} if completer is not None else {}) | dict(others or {})
    rows: list[EvaluationRow] = []
    for triple in published_triples():
        scan = read_published_scan(triple.scan, triple.dwell)
        unblurred = 2 * read_micrograph(triple.truth).pixels.astype(np.float32) - 1
        truth = blur(torch.from_numpy(unblurred)[None, None])[0, 0].numpy()
        coverage = coverage_label(float(np.mean(scan.dwell)))
        known = KnownScan(triple.truth.stem, coverage, scan.intensity, scan.dwell, truth, unblurred)
        rows += _score(known, models, baselines, noisy=True)
    setup = {
        "model": completer.card.name if completer else None,
        "model_sha256": completer.card.weights_sha256 if completer else None,
        "others_sha256": {
            name: other.card.weights_sha256 for name, other in (others or {}).items()
        },
        "data": [triple.scan.name for triple in published_triples()],
    }
    return EvaluationReport(rows, setup)


def _score(
    scan: KnownScan, models: Mapping[str, Completer], baselines: Sequence[str], noisy: bool
) -> list[EvaluationRow]:
    """A row for each model and each baseline."""

    def row(
        method: str, image: NDArray[np.float32], seconds: float, expected: float | None = None
    ) -> EvaluationRow:
        return EvaluationRow(
            image=scan.image,
            coverage=scan.coverage,
            method=method,
            scores=all_metrics(scan.truth, image, intensity_range=RANGE),
            unblurred_rmse=rmse(scan.unblurred, image, intensity_range=RANGE),
            expected_rmse=expected,
            seconds=seconds,
        )

    rows = []
    for name, completer in models.items():
        started = time.perf_counter()
        image, error = completer.complete(scan.intensity, scan.dwell, intensity_range=RANGE)
        seconds = time.perf_counter() - started
        calibrated = completer.card.calibration is not None
        # On [0, 1] errors are half of those on [-1, 1].
        expected = float(np.sqrt(np.mean(error.astype(np.float64) ** 2))) / 2
        rows.append(row(name, image, seconds, expected if calibrated else None))
    results = run_baselines(scan.intensity, scan.dwell, baselines, noisy=noisy)
    rows += [row(name, image, seconds) for name, (image, seconds) in results.items()]
    return rows


def _scan_config(completer: Completer | None, noise: NoiseConfig | None) -> Config:
    """The config that says how scans are simulated."""
    if completer is None:
        config = validate_config({"data": {"store": "."}}, where="defaults")
    else:
        config = validate_config(completer.card.config, where=f"config of {completer.card.name}")
    if noise is None:
        return config
    return config.model_copy(update={"scan": config.scan.model_copy(update={"noise": noise})})


def _coverage(value: float | str | Fraction) -> float:
    try:
        return parse_coverage(value)
    except ValueError as error:
        raise ConfigError(
            expected="coverages like 0.05 or 1/20", found=str(error), where="coverages"
        ) from None
