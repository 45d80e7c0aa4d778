"""Scans as units of work: whoever does them, in whatever order, a report is the same."""

from __future__ import annotations

import csv
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from stem_complete.config import DetectorNoiseConfig
from stem_complete.errors import BusyError, ConfigError, DataError, Failure
from stem_complete.evaluation import (
    MODEL,
    Measures,
    Model,
    baseline_methods,
    conditions_of,
    evaluate,
    evaluation_page,
    load_micrographs,
    work,
    write_rows,
)
from stem_complete.inference import Completer, Completion, load_completer
from stem_complete.storage.claim import claimed
from stem_complete.storage.paths import storage_path

NOISES = [DetectorNoiseConfig(dose_electrons_per_px=dose) for dose in (None, 50.0)]
CONDITIONS = conditions_of(None, ["1/10"], NOISES, ["archimedean", "random"])


@dataclass
class Backwards:
    """Workers elsewhere: what they get was pickled, and the last unit is done first."""

    completer: object = None
    lost: str = ""

    def run(self, job, parcels, timeout_s):
        worker = pickle.loads(pickle.dumps(job.absolute())).worker(self.completer)
        for parcel in reversed(parcels):
            if self.lost and self.lost in parcel[0].name:
                yield (
                    parcel,
                    [job.lost(unit, Failure("its worker died twice", "")) for unit in parcel],
                )
            else:
                there = pickle.loads(pickle.dumps(tuple(unit.absolute() for unit in parcel)))
                yield parcel, worker.complete(there)


@dataclass(frozen=True)
class Fussy:
    """A method that fails on scans of one noise."""

    noise: str

    def __call__(self, scan):
        if scan.noise == self.noise:
            raise ZeroDivisionError("nothing to divide by")
        return Completion(scan.truth)


def timeless(report):
    return [row._replace(seconds=0) for row in report.rows]


@pytest.fixture(scope="module")
def micrographs(small_store):
    return load_micrographs(small_store, max_images=2)


@pytest.fixture(scope="module")
def saved(model_folder):
    return load_completer(model_folder, "cpu")


@pytest.fixture(scope="module")
def methods(saved):
    return {MODEL: Model(saved)} | baseline_methods(["nearest"])


@pytest.fixture(scope="module")
def here(micrographs, methods):
    return evaluate(micrographs, methods, CONDITIONS, measures=Measures(details=True))


def test_workers_change_no_digit(micrographs, methods, saved, here, tmp_path):
    there = evaluate(
        micrographs,
        methods,
        CONDITIONS,
        measures=Measures(details=True),
        workers=Backwards(saved),
        folder=tmp_path,
    )
    assert timeless(there) == timeless(here)
    assert evaluation_page(there) == evaluation_page(here)


def test_what_was_stopped_goes_on_and_ends_the_same(micrographs, methods, here, tmp_path):
    def stop(num_done, *_):
        if num_done == 3:
            raise KeyboardInterrupt

    def run(progress=None):
        return evaluate(
            micrographs,
            methods,
            CONDITIONS,
            measures=Measures(details=True),
            folder=tmp_path,
            progress=progress,
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    calls = []
    resumed = run(lambda *call: calls.append(call))
    assert calls[-1][:2] == (len(here.rows) // 2 - 3,) * 2
    assert timeless(resumed) == timeless(here)
    for name, report in (("a", here), ("b", resumed)):
        write_rows(report, tmp_path / name, "csv")
        write_rows(report, tmp_path / name, "parquet")
    for name in ("scores.csv", "scores.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_measures_and_seeds_are_done_again(micrographs, methods, tmp_path):
    def num_done(**options):
        calls = []
        given = {"folder": tmp_path, "progress": lambda *call: calls.append(call)}
        evaluate(micrographs, methods, CONDITIONS[:1], **given, **options)
        return len(calls)

    assert num_done() == 2
    assert num_done() == 0
    assert num_done(seed=1) == 2
    assert num_done(seed=1, measures=Measures(details=True)) == 2


def test_a_scan_that_fails_fails_alone(micrographs, tmp_path):
    methods = baseline_methods(["nearest"]) | {"fussy": Fussy("dose 50")}
    report = evaluate(micrographs, methods, CONDITIONS, folder=tmp_path)
    assert {row.noise for row in report.rows} == {"none"}
    assert len(report.failed) == 4
    assert "dose 50/" in report.failed[0]
    assert "ZeroDivisionError: nothing to divide by" in report.failed[0]
    assert "Failed:" in evaluation_page(report)
    with pytest.raises(DataError, match="4 that failed"):
        report.whole()
    # What failed is tried again, by a method that is better now.
    again = evaluate(micrographs, methods | {"fussy": Fussy("")}, CONDITIONS, folder=tmp_path)
    assert again.whole() is again


def test_a_scan_that_no_worker_survives_is_told(micrographs, methods, saved):
    workers = Backwards(saved, lost=micrographs.crops[1].name)
    report = evaluate(micrographs, methods, CONDITIONS[:2], workers=workers)
    assert {row.image for row in report.rows} == {micrographs.crops[0].name}
    assert ["died twice" in line for line in report.failed] == [True, True]


def test_where_nothing_can_be_evaluated_the_reason_is_told(micrographs):
    with pytest.raises(DataError, match="ZeroDivisionError"):
        evaluate(micrographs, {"fussy": Fussy("none")}, CONDITIONS[:1])


def test_workers_have_one_model(micrographs, methods, artifact):
    several = methods | {"other": Model(Completer(artifact, "cpu"))}
    with pytest.raises(ConfigError, match="one model"):
        evaluate(micrographs, several, CONDITIONS[:1], workers=Backwards())


def test_micrographs_that_change_meanwhile_are_not_evaluated(tmp_path, texture, methods):
    np.save(tmp_path / "a.npy", texture(0, (512, 512)))
    np.save(tmp_path / "b.npy", texture(1, (512, 512)))
    micrographs = load_micrographs(tmp_path)
    np.save(tmp_path / "b.npy", texture(2, (512, 512)))
    kept = evaluate(
        micrographs._replace(crops=micrographs.crops[:1]),
        baseline_methods(["nearest"]),
        CONDITIONS[:1],
    )
    assert len(kept.rows) == 1
    with pytest.raises(DataError, match="as it was when the evaluation began, found other pixels"):
        evaluate(
            micrographs._replace(crops=micrographs.crops[1:]),
            baseline_methods(["nearest"]),
            CONDITIONS[:1],
        )


def test_a_path_that_changes_is_scanned_again(micrographs, tmp_path):
    side = micrographs.crops[0].pixels.shape[0]

    def run():
        calls = []
        conditions = conditions_of(None, ["1/10"], NOISES[:1], [str(tmp_path / "path.csv")])
        report = evaluate(
            micrographs,
            baseline_methods(["nearest"]),
            conditions,
            folder=tmp_path / "out",
            progress=lambda *call: calls.append(call),
        )
        assert {row.geometry for row in report.rows} == {"path.csv"}
        return len(calls)

    def write(step):
        with (tmp_path / "path.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["x [px]", "y [px]", "dwell"])
            places = [(x, y, 1.0) for y in range(0, side, step) for x in range(side)]
            writer.writerows([*places, (side - 1, side - 1, 1.0)])

    write(8)
    assert run() == 2
    assert run() == 0
    write(7)
    assert run() == 2


def test_one_process_at_a_time_has_a_folder(micrographs, methods, tmp_path):
    with claimed(storage_path(tmp_path) / work.FOLDER), pytest.raises(BusyError):
        evaluate(micrographs, methods, CONDITIONS[:1], folder=tmp_path)
