"""Scores of conditions one after the other, each kept in a file, so that long work goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import stem_complete
from stem_complete.evaluation.baselines import BASELINES
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.ground_truth import Micrographs, simulate
from stem_complete.evaluation.methods import Baseline, Method, Model, suiting
from stem_complete.evaluation.report import Report, Row, plain
from stem_complete.evaluation.scoring import report_of, scores, setup_of
from stem_complete.evaluation.tuned import parameters
from stem_complete.files import write_atomically

SEED = 0
"""Of the noise, and of the paths of random geometries."""

ShowProgress = Callable[[int, int, str, float | None], None]
"""Called after each scan with the number done, the total, what was done, and the time left [s]."""


def evaluate_cells(
    micrographs: Micrographs,
    methods: Mapping[str, Method],
    conditions: Sequence[Condition],
    *,
    kept: Iterable[Condition] = (),
    folder: Path | None = None,
    progress: ShowProgress | None = None,
) -> Report:
    """Scores of each method on a scan of each crop under each condition.

    Args:
        micrographs: What is scanned.
        methods: Completions of a scan, by the names of their rows.
        conditions: What is evaluated, unless it was before.
        kept: Conditions that are of the report if they were evaluated before.
        folder: Where scores are kept; None keeps none.
        progress: Called after each scan.
    """
    cells = _Cells(folder, micrographs, methods)
    missing = [condition for condition in conditions if cells.read(condition) is None]
    for condition, scored in _evaluated(missing, micrographs, methods, progress):
        cells.write(condition, scored)
    of_report = dict.fromkeys((*kept, *conditions))
    found = {c: rows for c in of_report if (rows := cells.read(c)) is not None}
    rows = [row for of_condition in found.values() for row in of_condition]
    return report_of(rows, methods, setup_of(micrographs, found, SEED), micrographs.left_out)


def _evaluated(
    conditions: Sequence[Condition],
    micrographs: Micrographs,
    methods: Mapping[str, Method],
    progress: ShowProgress | None,
) -> Iterator[tuple[Condition, list[Row]]]:
    """Each condition with its rows."""
    total = len(conditions) * len(micrographs.crops)
    left = _TimeLeft([len(suiting(methods, condition.labels)) for condition in conditions])
    done = 0
    for place, condition in enumerate(conditions):
        rows: list[Row] = []
        for number, scan in enumerate(simulate(micrographs.crops, condition, SEED), 1):
            rows += scores(scan, methods)
            done += 1
            if progress:
                share = number / len(micrographs.crops)
                progress(done, total, " ".join(condition.labels), left.after(place, share))
        yield condition, rows


class _Cells:
    """Rows of each condition, in memory and in a folder.

    A file counts if it is of the same data, seed, weights, and baselines with their parameters;
    it may have more baselines.

    Args:
        folder: Where the files are; None keeps them in memory alone.
        micrographs: What is scanned.
        methods: What completes the scans.
    """

    def __init__(
        self,
        folder: Path | None,
        micrographs: Micrographs,
        methods: Mapping[str, Method],
    ) -> None:
        self._folder, self._methods = folder, methods
        self._data = {"data_sha256": micrographs.sha256(), "seed": SEED}
        self._rows: dict[Condition, list[Row]] = {}

    def read(self, condition: Condition) -> list[Row] | None:
        """Rows of a condition; None if there are none, or of something else."""
        if condition not in self._rows and self._folder is not None:
            try:
                values = json.loads(self._file(condition).read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                return None
            wanted = self._of(condition)
            if _covers(values["of"], wanted):
                rows = [_row(row) for row in values["rows"]]
                shown = {*wanted["methods"], *BASELINES}  # no other model's
                self._rows[condition] = [row for row in rows if row.method in shown]
        return self._rows.get(condition)

    def write(self, condition: Condition, rows: Sequence[Row]) -> None:
        """Keeps the rows of a condition."""
        # Without the path of this machine, as a report has them.
        rows = [row._replace(field=Path(row.field).name) for row in rows]
        self._rows[condition] = list(rows)
        if self._folder is not None:
            values = {"of": self._of(condition), "rows": [plain(row) for row in rows]}
            write_atomically(self._file(condition), json.dumps(values, indent=1) + "\n")

    def _file(self, condition: Condition) -> Path:
        assert self._folder is not None
        return self._folder / f"{' '.join(condition.labels).replace('/', '-')}.json"

    def _of(self, condition: Condition) -> dict[str, Any]:
        of = self._data | {
            "version": stem_complete.__version__,
            "condition": condition._asdict() | {"noise": condition.noise.model_dump()},
            "methods": {
                name: _identity(method, condition)
                for name, method in suiting(self._methods, condition.labels).items()
            },
        }
        # As JSON has it: lists for tuples.
        values: dict[str, Any] = json.loads(json.dumps(of))
        return values


def _covers(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether what was kept is what is wanted, or has more methods."""
    methods = kept["methods"] | wanted["methods"]
    return {**kept} == {**wanted, "methods": methods}


def _identity(method: Method, condition: Condition) -> Any:
    """What tells a method from another of its name."""
    if isinstance(method, Baseline):
        return method.parameters or parameters(method.name, *condition.labels)
    if isinstance(method, Model):
        # What was never saved has no hash, and is like nothing else.
        return method.completer.card.weights_sha256 or uuid4().hex
    return str(method) if is_dataclass(method) else None


def _row(values: Mapping[str, Any]) -> Row:
    row = Row(**values)
    return row._replace(psnr=math.inf) if row.psnr is None else row


class _TimeLeft:
    """Time that conditions will take, of which those with as many methods take as long."""

    def __init__(self, num_methods: Sequence[int]) -> None:
        self._num_methods = num_methods
        self._spent: dict[int, list[float]] = {}  # seconds and conditions done, by their methods
        self._share = 0.0
        self._last = time.monotonic()

    def after(self, place: int, share: float) -> float:
        """Time left [s] once this share of the condition at `place` is done, and all before it."""
        now = time.monotonic()
        here = self._num_methods[place]
        spent = self._spent.setdefault(here, [0.0, 0.0])
        spent[0] += now - self._last
        spent[1] += share - self._share
        self._last, self._share = now, share % 1
        rates = {number: seconds / done for number, (seconds, done) in self._spent.items()}
        of_one = sum(rates.values()) / sum(rates)
        rest = sum(rates.get(n, n * of_one) for n in self._num_methods[place + 1 :])
        return rest + (1 - share) * rates[here]
