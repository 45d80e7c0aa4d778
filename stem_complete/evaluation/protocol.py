"""The evaluation protocol: a model beside tuned classical baselines, the same way every time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stem_complete.config import NoiseConfig, NoNoiseConfig, ReferenceNoiseConfig
from stem_complete.data.examples import Split
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.figures import CompletionExample, completion_figure
from stem_complete.evaluation.ground_truth import (
    Data,
    Micrographs,
    load_micrographs,
    simulate,
)
from stem_complete.evaluation.methods import Method, baseline_methods, model_methods
from stem_complete.evaluation.page import save_png
from stem_complete.evaluation.report import MODEL, Report, Worst
from stem_complete.evaluation.scoring import evaluate
from stem_complete.evaluation.tables import NUM_WORST, by_condition
from stem_complete.files import write_atomically
from stem_complete.inference import Completer, Progress

_NOISES: tuple[NoiseConfig, ...] = (NoNoiseConfig(), ReferenceNoiseConfig())

PROTOCOL: tuple[Condition, ...] = tuple(
    Condition(geometry, coverage, noise)
    for geometry in ("archimedean", "drawn")
    for coverage in (1 / 10, 1 / 17.9, 1 / 20, 1 / 50, 1 / 87)
    for noise in _NOISES
)
"""Spirals of a probe at constant speed and as the published code draws them, true coverages from
1/10 to 1/87, without noise and with the published detection noise."""

MAX_PER_FIELD = 4
"""Crops of a field of view in the protocol, so that no field dominates."""


def evaluate_protocol(
    data: Data,
    completer: Completer | None = None,
    *,
    conditions: Sequence[Condition] = PROTOCOL,
    split: Split = "test",
    output: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Scores of a model, if there is one, and of the fast baselines under the protocol.

    Files that the model was trained on are left out. The same data and weights give the same
    figures, bit for bit on one kind of processor.

    Args:
        data: A micrograph store, or files and folders of complete micrographs.
        completer: The model.
        conditions: The protocol's, or some of them.
        split: Split of the store; files are taken whole.
        output: Folder for `protocol.json`, `protocol.md` and `worst.png`, a picture of the scans
            on which the model does worst.
        progress: Called after each scan.

    Raises:
        DataError: There are no usable micrographs.
    """
    micrographs = load_micrographs(
        data,
        split=split,
        max_per_field=MAX_PER_FIELD,
        trained_on={source.sha256 for source in completer.card.training_data} if completer else (),
    )
    methods = baseline_methods() | (model_methods(completer) if completer else {})
    report = evaluate(micrographs, methods, conditions, progress=progress)
    if output is not None:
        write_atomically(output / "protocol.json", report.to_json() + "\n")
        write_atomically(output / "protocol.md", by_condition(report) + "\n")
        worst = _draw_worst(report.worst(NUM_WORST), micrographs, methods, conditions)
        save_png(worst, output / "worst.png")
    return report


def _draw_worst(
    worst: Sequence[Worst],
    micrographs: Micrographs,
    methods: Mapping[str, Method],
    conditions: Iterable[Condition],
) -> Any:
    """A row for each scan: truth, scan, best baseline, model if there is one, error."""
    crops = {(crop.field, crop.name): crop for crop in micrographs.crops}
    by_labels = {condition.labels: condition for condition in conditions}
    examples = []
    for row, _ in worst:
        # Scanned again: to keep the images of all scans would take gigabytes.
        condition = by_labels[row.geometry, row.coverage, row.noise]
        (scan,) = simulate([crops[row.field, row.image]], condition)
        completions = {"Best baseline": methods[row.method](scan).image}
        if MODEL in methods:
            completions["Completion"] = methods[MODEL](scan).image
        note = f"{row.geometry}, {row.coverage}, noise {row.noise}"
        examples.append(CompletionExample(row.image, scan, completions, note))
    return completion_figure(examples)
