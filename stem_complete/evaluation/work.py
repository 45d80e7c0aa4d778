"""Methods on scans of many micrographs under many conditions, each scan a unit of work.

Units are done in this process, or by workers such as those of `serving.batch.on_ray`. With a folder
each is kept in its manifest as soon as it is done, and the next run leaves it out. A unit's scores
follow from its crop, its condition and the methods alone, so neither the order nor the number of
workers changes a report, nor does whatever interrupted it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from stem_complete.errors import ConfigError, DataError, Failure, StemCompleteError, failure_of
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.kept_scores import KeptScores, ScanUnit
from stem_complete.evaluation.known_scans import simulate
from stem_complete.evaluation.methods import First, Method, Model, suiting
from stem_complete.evaluation.micrographs import Micrographs
from stem_complete.evaluation.report import Report, Row
from stem_complete.evaluation.scoring import ERRORS_ALONE, Measures, report_of, scores, setup_of
from stem_complete.inference import Completer
from stem_complete.storage.claim import Use, claimed
from stem_complete.storage.manifest import FOLDER, Manifest
from stem_complete.storage.paths import storage_path

SEED = 0
"""Of the noise, and of the paths of random geometries."""

TIMEOUT_S = 3600.0
"""Longest time for a scan and all methods on it [s], unless the user gives another one."""

ShowProgress = Callable[[int, int, str, float | None], None]
"""Called after each scan with the number done, the total, what was done, and the time left [s]."""

_USE = Use("the output", "evaluates to it", "choose another output")


class Evaluated(NamedTuple):
    """What became of a unit.

    Attributes:
        rows: Of each method.
        failure: Why there are none.
    """

    rows: tuple[Row, ...]
    failure: StemCompleteError | None = None


class Workers(Protocol):
    """Whoever does units elsewhere."""

    def run(
        self, job: Evaluation, parcels: Sequence[tuple[ScanUnit, ...]], timeout_s: float
    ) -> Iterable[tuple[tuple[ScanUnit, ...], list[Evaluated]]]:
        """Works through all parcels, in any order; each comes back once."""


class Evaluation(NamedTuple):
    """What is the same for all units.

    Attributes:
        methods: By name; of those of a model only what they are, as each worker has the model.
        seed: Of the noise and of random paths.
        measures: What is measured.
    """

    methods: Mapping[str, Method | type[Model | First]]
    seed: int
    measures: Measures

    @classmethod
    def of(cls, methods: Mapping[str, Method], seed: int, measures: Measures) -> Evaluation:
        """The job for workers that have the model.

        Raises:
            ConfigError: Methods are of several models.
        """
        of_models = {name: m for name, m in methods.items() if isinstance(m, Model | First)}
        if len({id(method.completer) for method in of_models.values()}) > 1:
            raise ConfigError(
                expected="one model, which each worker loads",
                found=f"several, of {', '.join(of_models)}",
                where="workers",
                fix="evaluate them one after the other, or without workers",
            )
        return cls({**methods, **{name: type(m) for name, m in of_models.items()}}, seed, measures)

    def absolute(self) -> Evaluation:
        """See `serving.batch.units.AnyJob`."""
        return self

    def worker(self, completer: Completer | None) -> Evaluator:
        """See `serving.batch.units.AnyJob`."""
        methods: dict[str, Method] = {}
        for name, method in self.methods.items():
            if isinstance(method, type):
                assert completer is not None
                methods[name] = method(completer)
            else:
                methods[name] = method
        return Evaluator(methods, self.seed, self.measures)

    def apart(self, unit: ScanUnit) -> None:
        """See `serving.batch.units.AnyJob`. A scan is scored by all methods or not at all."""

    def lost(self, unit: ScanUnit, failure: Failure) -> Evaluated:
        """See `serving.batch.units.AnyJob`."""
        return Evaluated((), _error(unit, failure))


class Evaluator:
    """Does units in this process.

    Args:
        methods: By name.
        seed: Of the noise and of random paths.
        measures: What is measured.
    """

    def __init__(self, methods: Mapping[str, Method], seed: int, measures: Measures) -> None:
        self.methods, self.seed, self.measures = methods, seed, measures

    def close(self) -> None:
        """See `serving.batch.units.AnyWorker`."""

    def complete(self, parcel: tuple[ScanUnit, ...]) -> list[Evaluated]:
        """What becomes of units; one that fails fails alone."""
        return [self._evaluated(unit) for unit in parcel]

    def _evaluated(self, unit: ScanUnit) -> Evaluated:
        try:
            (scan,) = simulate([unit.crop], unit.condition, self.seed)
            rows = scores(scan, self.methods, self.measures)
            # Without the path of this machine.
            told = tuple(row._replace(field=Path(row.field).name) for row in rows)
        except StemCompleteError as error:
            return Evaluated((), error)
        except Exception as error:  # methods may fail in any way
            return Evaluated((), _error(unit, failure_of(error)))
        return Evaluated(told)


def evaluate(
    micrographs: Micrographs,
    methods: Mapping[str, Method],
    conditions: Iterable[Condition],
    *,
    kept: Iterable[Condition] = (),
    seed: int = SEED,
    measures: Measures = ERRORS_ALONE,
    folder: Path | None = None,
    workers: Workers | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: ShowProgress | None = None,
) -> Report:
    """Scores of each method on a scan of each crop under each condition.

    Args:
        micrographs: What is scanned.
        methods: Completions of a scan, by the names of their rows.
        conditions: What is evaluated, unless the folder has it.
        kept: Conditions that are of the report if the folder has them.
        seed: Of the noise, and of the paths of random geometries.
        measures: What is measured.
        folder: Where scores are kept, scan by scan; None keeps none. A scan that is there, of the
            same crop, seed, weights, baselines and parameters, is not done again.
        workers: Whoever does the scans; None: this process. They have the model of the methods.
        timeout_s: Longest time for a scan, of workers [s].
        progress: Called after each scan.

    Raises:
        ConfigError: There is no method, or methods are of several models and there are workers.
        StemCompleteError: Not one scan could be evaluated.
        BusyError: Another process evaluates to the same folder.
    """
    if not methods:
        raise ConfigError(
            expected="a model or baselines", found="neither", where="evaluate", fix="name one"
        )
    conditions = list(dict.fromkeys(conditions))
    claims = None if folder is None else storage_path(folder) / FOLDER
    with nullcontext() if claims is None else claimed(claims, use=_USE):
        scored = KeptScores(None if claims is None else Manifest(claims), methods, seed, measures)
        units = [ScanUnit(crop, c) for c in conditions for crop in micrographs.crops]
        missing = [unit for unit in units if scored.of(unit) is None]
        failed: dict[str, StemCompleteError] = {}
        bar = _Progress(progress, missing, methods)
        with scored:
            for unit, found in _evaluated(missing, methods, seed, measures, workers, timeout_s):
                if found.failure is None:
                    scored.add(unit, found.rows)
                else:
                    failed[unit.name] = found.failure
                bar.show(unit, found)
    if failed and len(failed) == len(units):
        raise next(iter(failed.values()))
    rows, of_report = [], []
    for condition in dict.fromkeys((*kept, *conditions)):
        found_rows = [scored.of(ScanUnit(crop, condition)) for crop in micrographs.crops]
        if condition in conditions or None not in found_rows:
            of_report.append(condition)
            rows += [row for of_scan in found_rows for row in of_scan or ()]
    setup = setup_of(micrographs, of_report, seed)
    told = [failed[unit.name] for unit in units if unit.name in failed]
    return report_of(rows, methods, setup, micrographs.left_out, [str(error) for error in told])


def _evaluated(
    units: Sequence[ScanUnit],
    methods: Mapping[str, Method],
    seed: int,
    measures: Measures,
    workers: Workers | None,
    timeout_s: float,
) -> Iterator[tuple[ScanUnit, Evaluated]]:
    """Units with what became of them, in any order."""
    if workers is None:
        evaluator = Evaluator(methods, seed, measures)
        for unit in units:
            (found,) = evaluator.complete((unit,))
            yield unit, found
        return
    job = Evaluation.of(methods, seed, measures)
    for (unit,), (found,) in workers.run(job, [(unit,) for unit in units], timeout_s):
        yield unit, found


def _error(unit: ScanUnit, failure: Failure) -> DataError:
    reason, fix = failure
    return DataError(
        expected="a scan that can be evaluated", found=reason, where=unit.name, fix=fix
    )


class _Progress:
    """Tells how far the work is, and the time left: scans with as many methods take as long."""

    def __init__(
        self, show: ShowProgress | None, units: Sequence[ScanUnit], methods: Mapping[str, Method]
    ) -> None:
        self._show, self._total, self._num_done = show, len(units), 0
        self._begun_s = time.monotonic()
        conditions = dict.fromkeys(unit.condition for unit in units)
        self._size = {c: len(suiting(methods, c.labels)) for c in conditions}
        self._left: dict[int, int] = dict.fromkeys(self._size.values(), 0)
        for unit in units:
            self._left[self._size[unit.condition]] += 1
        self._spent: dict[int, list[float]] = {}  # seconds of work, by the number of methods

    def show(self, unit: ScanUnit, found: Evaluated) -> None:
        """Tells of a unit that is done."""
        self._num_done += 1
        size = self._size[unit.condition]
        self._left[size] -= 1
        spent = self._spent.setdefault(size, [0.0, 0.0])
        spent[0] += sum(row.seconds for row in found.rows)
        spent[1] += 1
        if self._show:
            labels = " ".join(unit.condition.labels)
            self._show(self._num_done, self._total, labels, self._left_s())

    def _left_s(self) -> float:
        work = sum(seconds for seconds, _ in self._spent.values())
        rates = {size: seconds / number for size, (seconds, number) in self._spent.items()}
        of_one = sum(rates.values()) / max(sum(rates), 1)
        left = sum(n * rates.get(size, size * of_one) for size, n in self._left.items())
        # Workers do several at a time, and it is not methods alone that take time.
        passed = time.monotonic() - self._begun_s
        return left * passed / work if work > 0 else 0.0
