from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric

from stem_complete.config import Config
from stem_complete.errors import TrackingError
from stem_complete.tracking import TrackedRuns, default_uri, open_run, points
from stem_complete.tracking import curves as curves_module
from stem_complete.tracking.client import connect, sqlite_file

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

EXPERIMENT = "stem-complete"
LOSS = "train/outer_loss"


@pytest.fixture
def runs(uri: str, make_config: Callable[..., Config]) -> dict[str, str]:
    """Ids of a sweep of two arms and two seeds, of its parent, and of a run outside of it."""
    parent = open_run(make_config("sweep"), uri)
    ids = {"sweep": parent.run_id}
    for name in ("mse-seed1", "mse-seed0", "alrc-seed0", "alrc-seed1", "alone"):
        above = None if name == "alone" else parent
        ids[name] = open_run(make_config(name), uri, parent=above).run_id
        metrics = [Metric(LOSS, len(name) + step, 1000 + step, step) for step in (2, 0, 1)]
        connect(uri).log_batch(ids[name], metrics=metrics)
    return ids


def names(curves: list[curves_module.Curve]) -> list[str]:
    return [curve.name for curve in curves]


def test_curves_by_arm_and_seed(uri: str, runs: dict[str, str]) -> None:
    curves = TrackedRuns(uri, EXPERIMENT).curves(LOSS)
    assert names(curves) == ["alone", "alrc-seed0", "alrc-seed1", "mse-seed0", "mse-seed1"]
    assert [(c.arm, c.seed) for c in curves[1:4]] == [("alrc", 0), ("alrc", 1), ("mse", 0)]
    assert curves[3].steps.tolist() == [0, 1, 2]
    assert curves[3].values.tolist() == [9, 10, 11]
    assert TrackedRuns(uri, EXPERIMENT).curves("no/such") == []


def test_filters(uri: str, runs: dict[str, str]) -> None:
    of_sweep = TrackedRuns(uri, EXPERIMENT, parent=runs["sweep"]).curves(LOSS)
    assert names(of_sweep) == ["alrc-seed0", "alrc-seed1", "mse-seed0", "mse-seed1"]
    run_ids = [runs["alone"], runs["mse-seed1"]]
    chosen = TrackedRuns(uri, EXPERIMENT).curves(LOSS, run_ids=run_ids)
    assert names(chosen) == ["alone", "mse-seed1"]


def test_every_page_is_read(
    uri: str, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = names(TrackedRuns(uri, EXPERIMENT).curves(LOSS))
    monkeypatch.setattr(curves_module, "_RUNS_PER_PAGE", 2)
    assert names(TrackedRuns(uri, EXPERIMENT).curves(LOSS)) == everything


def test_long_histories_are_complete(
    uri: str, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As from a server.
    monkeypatch.setattr(curves_module, "sqlite_file", lambda uri: None)
    page = "mlflow.tracking._tracking_service.client.GET_METRIC_HISTORY_MAX_RESULTS"
    monkeypatch.setattr(page, 100)
    metrics = [Metric("long", step, step, step) for step in range(1000)]
    connect(uri).log_batch(runs["alone"], metrics=metrics)
    (curve,) = TrackedRuns(uri, EXPERIMENT).curves("long")
    assert np.array_equal(curve.steps, np.arange(1000))
    assert np.array_equal(curve.values, np.arange(1000))


def test_odd_values_and_repeated_steps(uri: str, runs: dict[str, str]) -> None:
    odd = [float("nan"), float("inf"), float("-inf"), 4.0, 5.0]
    metrics = [Metric("odd", value, 10 + k, min(k, 3)) for k, value in enumerate(odd)]
    connect(uri).log_batch(runs["alone"], metrics=metrics)
    (curve,) = TrackedRuns(uri, EXPERIMENT).curves("odd")
    assert curve.steps.tolist() == [0, 1, 2, 3]
    assert np.isnan(curve.values[0])
    assert curve.values[1:].tolist() == [np.inf, -np.inf, 5.0]  # the later of a repeated step


def test_a_database_says_what_mlflows_client_says(uri: str, runs: dict[str, str]) -> None:
    rng, run = np.random.default_rng(0), runs["alone"]
    values = [*rng.normal(size=300), np.nan, np.inf, -np.inf, 0.0]
    steps = rng.integers(0, 200, len(values)).tolist()
    connect(uri).log_batch(
        run,
        metrics=[
            Metric("m", v, 5 * k, s) for k, (v, s) in enumerate(zip(values, steps, strict=True))
        ],
    )
    of_database = points.reader(connect(uri), sqlite_file(uri))(run, "m")
    of_client = points.reader(connect(uri), None)(run, "m")
    for one, other in zip(of_database, of_client, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(of_client.steps) == len(set(steps))
    for file in (sqlite_file(uri), None):
        of_none = points.reader(connect(uri), file)(run, "none")
        assert [len(each) for each in of_none] == [0, 0, 0]


def test_the_points_of_one_run_are_found_without_those_of_others(
    uri: str, runs: dict[str, str]
) -> None:
    with closing(sqlite3.connect(sqlite_file(uri))) as database:
        plan = database.execute(f"EXPLAIN QUERY PLAN {points.QUERY}", (runs["alone"], LOSS))
        (step,) = [detail for *_, detail in plan]
    assert "USING INDEX" in step
    assert "run_uuid=? AND key=?" in step


def test_an_unknown_experiment_names_those_there_are(uri: str, runs: dict[str, str]) -> None:
    with pytest.raises(TrackingError, match=r"experiment 'x', found Default, stem-complete"):
        TrackedRuns(uri, "x").curves(LOSS)


def test_a_misspelt_database_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no such file"):
        TrackedRuns(default_uri(tmp_path / "nowhere"), EXPERIMENT).curves(LOSS)
    assert not (tmp_path / "nowhere").exists()


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="Connection refused") as error:
        TrackedRuns("http://127.0.0.1:9", EXPERIMENT).curves(LOSS)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(TrackingError, match="file is not a database"):
        TrackedRuns(default_uri(tmp_path), EXPERIMENT).curves(LOSS)
