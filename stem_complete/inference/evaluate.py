"""How well a model and classical baselines complete scans of micrographs that are known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.config import Config, Noise, parse_coverage, validate_config
from stem_complete.data.cropping import cut
from stem_complete.data.examples import published_triples
from stem_complete.data.formats import find_files, read_micrograph, read_micrographs
from stem_complete.data.layout import Split, is_store
from stem_complete.data.scans import read_published_scan
from stem_complete.data.store import MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.evaluation import all_metrics, rmse, run_baselines
from stem_complete.inference.completer import Completer
from stem_complete.inference.export import evenly_spread
from stem_complete.inference.progress import Progress
from stem_complete.inference.scorecard import EvaluationReport, EvaluationRow
from stem_complete.scan import blur
from stem_complete.training.task import build_simulator

MODEL = "model"
DEFAULT_BASELINES = ("nearest", "linear", "normalised_convolution", "biharmonic")
CROP_SIZE = 512
"""Side of the crops that files of micrographs are cut into [px]."""

_RANGE = (-1.0, 1.0)  # of every unblurred micrograph here; it is the unit of all errors


class _KnownScan(NamedTuple):
    """A scan of a known micrograph, all [h, w] and in [-1, 1] by the range of `unblurred`."""

    image: str
    coverage: str
    intensity: NDArray[np.float32]
    dwell: NDArray[np.float32]
    truth: NDArray[np.float32]
    unblurred: NDArray[np.float32]


class _Micrograph(NamedTuple):
    name: str
    position: int
    pixels: NDArray[np.float32]


def evaluate(
    data: str | Path | Sequence[str | Path],
    *,
    completer: Completer | None = None,
    coverages: Sequence[float | str | Fraction] = (),
    noise: Noise | None = None,
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
    fractions = list(dict.fromkeys(map(_coverage, coverages or (config.scan.coverage,))))
    left_out: list[str] = []
    micrographs = _micrographs(data, split, num_images, left_out)
    rows: list[EvaluationRow] = []
    total = len(micrographs) * len(fractions)
    for coverage in fractions:
        for done, scan in enumerate(_simulate(micrographs, config, coverage, seed)):
            rows += _score(scan, completer, baselines)
            if progress:
                progress(len(micrographs) * fractions.index(coverage) + done + 1, total)
    setup = {
        "model": completer.card.name if completer else None,
        "model_sha256": completer.card.weights_sha256 if completer else None,
        "data": [str(source) for source in _as_list(data)],
        "split": split if _is_store(data) else None,
        "num_images": len(micrographs),
        "coverages": [_label(coverage) for coverage in fractions],
        "scan": config.scan.model_dump(mode="json", exclude={"coverage", "augment"}),
        "seed": seed,
    }
    return EvaluationReport(rows, setup, left_out)


def evaluate_published(
    completer: Completer | None = None, baselines: Sequence[str] = DEFAULT_BASELINES
) -> EvaluationReport:
    """Scores on the authors' own noisy scans, which come with the package.

    The truth is blurred by 5x5 px, sigma 2.5 px, as in the papers' losses.
    """
    rows: list[EvaluationRow] = []
    for triple in published_triples():
        scan = read_published_scan(triple.scan, triple.dwell)
        unblurred = 2 * read_micrograph(triple.truth).pixels.astype(np.float32) - 1
        truth = blur(torch.from_numpy(unblurred)[None, None])[0, 0].numpy()
        coverage = _label(float(np.mean(scan.dwell)))
        known = _KnownScan(
            triple.truth.stem, coverage, scan.intensity, scan.dwell, truth, unblurred
        )
        rows += _score(known, completer, baselines)
    setup = {
        "model": completer.card.name if completer else None,
        "model_sha256": completer.card.weights_sha256 if completer else None,
        "data": [triple.scan.name for triple in published_triples()],
    }
    return EvaluationReport(rows, setup)


def _score(
    scan: _KnownScan, completer: Completer | None, baselines: Sequence[str]
) -> list[EvaluationRow]:
    """A row for the model, if there is one, and for each baseline."""

    def row(
        method: str, image: NDArray[np.float32], seconds: float, expected: float | None = None
    ) -> EvaluationRow:
        return EvaluationRow(
            image=scan.image,
            coverage=scan.coverage,
            method=method,
            scores=all_metrics(scan.truth, image, intensity_range=_RANGE),
            unblurred_rmse=rmse(scan.unblurred, image, intensity_range=_RANGE),
            expected_rmse=expected,
            seconds=seconds,
        )

    rows = []
    if completer is not None:
        started = time.perf_counter()
        image, error = completer.complete(scan.intensity, scan.dwell, intensity_range=_RANGE)
        seconds = time.perf_counter() - started
        calibrated = completer.card.calibration is not None
        # On [0, 1] errors are half of those on [-1, 1].
        expected = float(np.sqrt(np.mean(error.astype(np.float64) ** 2))) / 2
        rows.append(row(MODEL, image, seconds, expected if calibrated else None))
    for name, (image, seconds) in run_baselines(scan.intensity, scan.dwell, baselines).items():
        rows.append(row(name, image, seconds))
    return rows


def _scan_config(completer: Completer | None, noise: Noise | None) -> Config:
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


def _label(coverage: float) -> str:
    return f"1/{1 / coverage:.3g}"


def _simulate(
    micrographs: Sequence[_Micrograph], config: Config, coverage: float, seed: int
) -> Iterator[_KnownScan]:
    """A scan of each micrograph; all have one shape."""
    scan = config.scan.model_copy(update={"coverage": coverage})
    height, width = micrographs[0].pixels.shape
    simulator = build_simulator(
        config.model_copy(update={"scan": scan}), (height, width), augment=False, seed=seed
    )
    for micrograph in micrographs:
        image = torch.from_numpy(micrograph.pixels)[None, None]
        batch = simulator(image, 0, torch.tensor([micrograph.position]))
        tensors = (*batch.scan, batch.truth, batch.unblurred)
        yield _KnownScan(
            micrograph.name, _label(coverage), *(tensor[0, 0].numpy() for tensor in tensors)
        )


def _micrographs(
    data: str | Path | Sequence[str | Path], split: Split, number: int, left_out: list[str]
) -> list[_Micrograph]:
    """Crops in [-1, 1], all of one size."""
    if _is_store(data):
        return _from_store(MicrographStore.open(_as_list(data)[0]), split, number)
    crops = []
    for file in find_files(_as_list(data)):
        try:
            found = read_micrographs(file)
        except DataError as error:
            left_out.append(str(error))
            continue
        for micrograph in found:
            kept, refused = cut(micrograph, CROP_SIZE, "float32")
            left_out += [f"{r.path} at {r.row}, {r.column}: {r.reason}" for r in refused]
            parts = [file.stem, micrograph.name, *[str(micrograph.frame)] * (len(found) > 1)]
            name = " ".join(filter(None, parts))
            crops += [(f"{name} at {crop.row}, {crop.column}", crop.pixels) for crop in kept]
    if not crops:
        raise DataError(
            expected=f"micrographs with contrast, {CROP_SIZE} px or larger",
            found=left_out[0] if left_out else "none",
            where=" ".join(map(str, _as_list(data))),
        )
    chosen = evenly_spread(np.arange(len(crops)), number)
    return [_Micrograph(crops[i][0], int(i), _to_unit_range(crops[i][1])) for i in chosen]


def _from_store(store: MicrographStore, split: Split, number: int) -> list[_Micrograph]:
    chosen = evenly_spread(store.indices(split), number)
    if not len(chosen):
        raise DataError(
            expected=f"micrographs in the {split} split",
            found=", ".join(f"{count} {name}" for name, count in store.counts.items()),
            where=store.path,
            fix="choose another split, or ingest more files",
        )
    names = [
        f"{Path(record.source.path).stem} at {record.row}, {record.column}"
        for record in store.records(chosen)
    ]
    images = store.read(chosen)
    return [
        _Micrograph(name, int(crop), image)
        for name, crop, image in zip(names, chosen, images, strict=True)
    ]


def _to_unit_range(pixels: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    values = pixels.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float32] = (2 * (values - low) / (high - low) - 1).astype(np.float32)
    return scaled


def _is_store(data: str | Path | Sequence[str | Path]) -> bool:
    sources = _as_list(data)
    return len(sources) == 1 and is_store(Path(sources[0]))


def _as_list(data: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [data] if isinstance(data, str | Path) else list(data)
