"""Scores of scans of known micrographs, each kept in a manifest as soon as it is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import stem_complete
from stem_complete.evaluation.baselines import BASELINES
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.methods import Baseline, First, Method, Model, suiting
from stem_complete.evaluation.micrographs import KnownMicrograph
from stem_complete.evaluation.report import Details, Row, plain
from stem_complete.evaluation.scoring import Measures
from stem_complete.evaluation.tuned import parameters
from stem_complete.scan import GEOMETRIES
from stem_complete.storage.manifest import Manifest, Record


class ScanUnit(NamedTuple):
    """A scan of a crop under a condition, on which all methods are scored."""

    crop: KnownMicrograph
    condition: Condition

    @property
    def name(self) -> str:
        """What it is known by in the manifest."""
        crop = self.crop
        return f"{' '.join(self.condition.labels)}/{crop.name}/{crop.pixels_sha256[:12]}"

    def absolute(self) -> ScanUnit:
        """The same for a process with another working folder."""
        crop, condition = self.crop, self.condition
        if condition.geometry not in GEOMETRIES:
            file = str(Path(condition.geometry).absolute())
            condition = condition._replace(geometry=file)
        return ScanUnit(crop._replace(at=crop.at.absolute()), condition)


class KeptScores:
    """Rows of units, in memory and in a manifest.

    A record counts if it is of the same crop, condition, seed, weights, and baselines with their
    parameters; it may have more baselines.

    Args:
        manifest: Where they are kept; None keeps them in memory alone.
        methods: What completes the scans.
        seed: Of noise and paths.
        measures: What is measured.
    """

    def __init__(
        self,
        manifest: Manifest | None,
        methods: Mapping[str, Method],
        seed: int,
        measures: Measures,
    ) -> None:
        self._manifest, self._methods = manifest, methods
        self._same = {
            "version": stem_complete.__version__,
            "seed": seed,
            "measures": measures._asdict(),
        }
        # What was never saved has no hash, and is like nothing else.
        self._unsaved = uuid4().hex
        self._records: dict[str, Record] = {} if manifest is None else manifest.read()
        self._rows: dict[str, tuple[Row, ...]] = {}

    def __enter__(self) -> None:
        if self._manifest is not None:
            self._manifest.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._manifest is not None:
            self._manifest.__exit__(*error)

    def of(self, unit: ScanUnit) -> tuple[Row, ...] | None:
        """Rows of a unit; None if there are none, or of something else."""
        record = self._records.pop(unit.name, None)  # rows take less memory
        if record is not None:
            wanted = self._identity(unit)
            known = record.get("of", {})
            of_methods = known.get("methods", {})
            if known == wanted | {"methods": of_methods | wanted["methods"]}:
                shown = {*wanted["methods"], *BASELINES}  # no other model's
                rows = map(_row, record["rows"])
                self._rows[unit.name] = tuple(row for row in rows if row.method in shown)
        return self._rows.get(unit.name)

    def add(self, unit: ScanUnit, rows: tuple[Row, ...]) -> None:
        """Keeps the rows of a unit.

        Raises:
            StorageError: The manifest cannot be written.
        """
        self._rows[unit.name] = rows
        if self._manifest is not None:
            of = self._identity(unit)
            self._manifest.add({"unit": unit.name, "of": of, "rows": [plain(row) for row in rows]})

    def _identity(self, unit: ScanUnit) -> dict[str, Any]:
        condition = unit.condition
        of = self._same | {
            "path_sha256": condition.path_sha256,
            "pixels": unit.crop.pixels_sha256,
            "condition": condition._asdict() | {"noise": condition.noise.model_dump()},
            "methods": {
                name: self._method(method, condition)
                for name, method in suiting(self._methods, condition.labels).items()
            },
        }
        # As JSON has it: lists for tuples.
        values: dict[str, Any] = json.loads(json.dumps(of))
        return values

    def _method(self, method: Method, condition: Condition) -> Any:
        """What tells a method from another of its name."""
        if isinstance(method, Baseline):
            return method.parameters or parameters(method.name, *condition.labels)
        if isinstance(method, Model | First):
            completer = method.completer
            return [completer.card.weights_sha256 or self._unsaved, completer.precision]
        return str(method) if is_dataclass(method) else None


def _row(values: Mapping[str, Any]) -> Row:
    row = Row(**values)
    row = row._replace(psnr=math.inf) if row.psnr is None else row
    if values.get("details") is None:
        return row
    details = Details(**values["details"])
    return row._replace(
        details=details._replace(
            frc=tuple(details.frc), rmse_by_distance=tuple(details.rmse_by_distance)
        )
    )
