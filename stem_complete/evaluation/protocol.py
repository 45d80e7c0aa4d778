"""The evaluation protocol: a model beside tuned classical baselines, the same way every time.

It may be run in parts: each scan is kept in the output folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stem_complete.config import DetectorNoiseConfig, NoiseConfig, ReferenceNoiseConfig
from stem_complete.data.examples import Split
from stem_complete.errors import ConfigError
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.figures import CompletionExample, completion_figure
from stem_complete.evaluation.heat_map import ratios_figure
from stem_complete.evaluation.known_scans import simulate
from stem_complete.evaluation.methods import (
    PROTOCOL_BASELINES,
    Baseline,
    Method,
    baseline_methods,
    model_methods,
)
from stem_complete.evaluation.micrographs import Data, Micrographs, load_micrographs
from stem_complete.evaluation.page import save_png
from stem_complete.evaluation.report import MODEL, Report, Worst
from stem_complete.evaluation.tables import NUM_WORST, as_csv, by_condition
from stem_complete.evaluation.work import SEED, TIMEOUT_S, ShowProgress, Workers, evaluate
from stem_complete.files import write_atomically
from stem_complete.inference import Completer
from stem_complete.vocabulary import Geometry

COVERAGES = (1 / 2, 1 / 5, 1 / 10, 1 / 20, 1 / 50, 1 / 87)
DOSES = (1000.0, 100.0, 20.0)
NOISES: tuple[NoiseConfig, ...] = (
    DetectorNoiseConfig(dose_electrons_per_px=None),
    *(DetectorNoiseConfig(dose_electrons_per_px=dose) for dose in DOSES),
    ReferenceNoiseConfig(),
)

_OTHERS: tuple[Geometry, ...] = (
    "archimedean_angular",
    "lissajous",
    "hilbert",
    "line_hop",
    "jittered_grid",
    "random",
)
_ROWS: tuple[Geometry, ...] = ("serpentine_raster", "sparse_rows")

PROTOCOL: tuple[Condition, ...] = (
    *(Condition("archimedean", coverage, noise) for noise in NOISES for coverage in COVERAGES),
    *(Condition("drawn", coverage, NOISES[-1]) for coverage in COVERAGES),
    *(
        Condition(geometry, coverage, noise)
        for geometry in _OTHERS
        for noise in NOISES[:-1]
        for coverage in COVERAGES
    ),
    *(
        Condition(geometry, coverage, noise)
        for geometry in _ROWS
        for noise in NOISES[:-1]
        for coverage in COVERAGES[:4]
    ),
)
"""Geometries x coverages x noise: 212 cells.

Electrons are counted sample by sample, without noise and at three doses. The published detection
noise, pixel by pixel, is on spirals alone, at constant speed and as the published code draws them.
Rows of the raster end at 1/20: below, an image of 512 px has ten of them.
"""

MAX_PER_FIELD = 4
"""Crops of a field of view in the protocol, so that no field dominates."""


def chosen(
    only: Iterable[str], conditions: Sequence[Condition] = PROTOCOL
) -> tuple[Condition, ...]:
    """Conditions whose labels fit a pattern such as `archimedean 1/20 *`; all without a pattern.

    Raises:
        ConfigError: A pattern fits none.
    """
    patterns = list(only)
    names = {condition: " ".join(condition.labels) for condition in conditions}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names.values()):
            raise ConfigError(
                expected="a pattern of conditions such as 'archimedean 1/20 dose 100'",
                found=repr(pattern),
                where="--only",
                fix=f"they are like {next(iter(names.values()))!r}; * is any text",
            )
    return tuple(
        condition
        for condition, name in names.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def evaluate_protocol(
    data: Data,
    completer: Completer | None = None,
    *,
    conditions: Sequence[Condition] = PROTOCOL,
    more_baselines: Sequence[str] = (),
    split: Split = "test",
    max_images: int | None = None,
    group_pattern: str | None = None,
    output: Path | None = None,
    workers: Workers | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: ShowProgress | None = None,
) -> Report:
    """Scores of a model, if there is one, and of the fast baselines under the protocol.

    Files that the model was trained on are left out. The same data and weights give the same
    figures, bit for bit on one kind of processor.

    Args:
        data: A micrograph store, or files and folders of complete micrographs.
        completer: The model.
        conditions: The protocol's, or some of them, as `chosen` finds them.
        more_baselines: Slow ones, as `bm3d`, beside those of the protocol.
        split: Split of the store; files are taken whole.
        max_images: Largest number of crops, spread evenly over the data.
        group_pattern: What names a file's field of view, see `load_micrographs`.
        output: Folder for `protocol.json`, `protocol.md`, `protocol.csv`, `ratios.png` and
            `worst.png`, a picture of the scans on which the model does worst. Scans that are there,
            of the same weights, crop and baselines, are not evaluated again, and cells of which
            all are there become part of the report.
        workers: See `evaluate`.
        timeout_s: Likewise.
        progress: Called after each scan.

    Raises:
        DataError: There are no usable micrographs.
        MissingPackageError: A baseline needs a package that is not installed.
    """
    micrographs = load_micrographs(
        data,
        split=split,
        max_images=max_images,
        max_per_field=MAX_PER_FIELD,
        group_pattern=group_pattern,
        trained_on={source.sha256 for source in completer.card.training_data} if completer else (),
    )
    names = dict.fromkeys((*PROTOCOL_BASELINES, *more_baselines))
    methods = baseline_methods(names) | (model_methods(completer) if completer else {})
    report = evaluate(
        micrographs,
        methods,
        conditions,
        kept=PROTOCOL,
        folder=output,
        workers=workers,
        timeout_s=timeout_s,
        progress=progress,
    )
    if output is not None:
        write_atomically(output / "protocol.json", report.to_json() + "\n")
        write_atomically(output / "protocol.md", by_condition(report) + "\n")
        write_atomically(output / "protocol.csv", as_csv(report))
        if completer is not None:
            save_png(ratios_figure(report.cells()), output / "ratios.png")
        worst = _draw_worst(report.worst(NUM_WORST), micrographs, methods, (*PROTOCOL, *conditions))
        save_png(worst, output / "worst.png")
    return report


def _draw_worst(
    worst: Sequence[Worst],
    micrographs: Micrographs,
    methods: Mapping[str, Method],
    conditions: Iterable[Condition],
) -> Any:
    """A row for each scan: truth, scan, best baseline, model if there is one, error."""
    crops = {(Path(crop.field).name, crop.name): crop for crop in micrographs.crops}
    by_labels = {condition.labels: condition for condition in conditions}
    examples = []
    for row, _ in worst:
        # Scanned again: to keep the images of all scans would take gigabytes.
        condition = by_labels[row.geometry, row.coverage, row.noise]
        (scan,) = simulate([crops[row.field, row.image]], condition, SEED)
        completions = {"Best baseline": Baseline(row.method)(scan).image}
        if MODEL in methods:
            completions["Completion"] = methods[MODEL](scan).image
        note = f"{row.geometry}, {row.coverage}, noise {row.noise}"
        examples.append(CompletionExample(row.image, scan, completions, note))
    return completion_figure(examples)
