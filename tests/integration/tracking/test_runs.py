from __future__ import annotations

import logging
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stem_complete.config import Config
from stem_complete.errors import TrackingError
from stem_complete.tracking import TrackedRun, default_uri, finish_run, open_run
from stem_complete.tracking.client import connect
from stem_complete.tracking.links import Place, kept_place
from stem_complete.tracking.runs import enter_run, find_run_id

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

MakeConfig = Callable[..., Config]


def experiment_id(run: TrackedRun) -> str:
    return connect(run.uri).get_run(run.run_id).info.experiment_id


def all_runs(run: TrackedRun) -> list:
    return list(connect(run.uri).search_runs([experiment_id(run)]))


def test_a_run_is_found_again_by_its_folder(uri: str, make_config: MakeConfig) -> None:
    run = open_run(make_config(), uri)
    finish_run(run, "FAILED")
    assert connect(uri).get_run(run.run_id).info.status == "FAILED"

    assert open_run(make_config(), uri).run_id == run.run_id
    info = connect(uri).get_run(run.run_id).info
    assert (info.status, info.run_name) == ("RUNNING", "alrc-seed3")

    other = open_run(make_config("mse-seed3"), uri)
    anew = open_run(make_config(), uri, resume=False)
    assert len({run.run_id, other.run_id, anew.run_id}) == 3
    # The newest run of the folder is the one that goes on, and the folder says which it is.
    assert open_run(make_config(), uri).run_id == anew.run_id
    assert kept_place(anew.config.run_folder) == Place(uri, experiment_id(run), anew.run_id)
    assert len(all_runs(run)) == 3


@pytest.mark.parametrize("folder", ["a b", "it's", 'in "quotes"', "µm", "a\\b", "100%"])
def test_any_folder_name_identifies_its_run(
    uri: str, make_config: MakeConfig, tmp_path: Path, folder: str
) -> None:
    config = make_config(storage=tmp_path / folder)
    assert open_run(config, uri).run_id == open_run(config, uri).run_id is not None


def test_what_a_run_records(uri: str, make_config: MakeConfig) -> None:
    parent = open_run(make_config("comparison", sweep={"arms": {"mse": {}, "alrc": {}}}), uri)
    config = make_config(loss={"alrc": None}, recipe="any-dose", scan={"coverage": "1/20"})
    run = open_run(config, uri, parent=parent)
    found = connect(uri).get_run(run.run_id)

    assert found.data.params["loss.alrc"] == "null"
    assert found.data.params["scan.coverage"] == "0.05"
    assert found.data.params["scan.noise.kind"] == "reference"
    assert connect(uri).get_run(parent.run_id).data.params["sweep.arms.mse"] == "{}"
    tags = found.data.tags
    assert tags["mlflow.parentRunId"] == parent.run_id
    assert tags["stem_complete.run"] == str(config.run_folder)
    assert (tags["stem_complete.arm"], tags["stem_complete.seed"]) == ("alrc", "3")
    assert tags["stem_complete.recipe"] == "any-dose"
    assert tags["stem_complete.version.torch"].startswith("2.")
    file = Path(connect(uri).download_artifacts(run.run_id, "config.yaml"))
    saved = yaml.safe_load(file.read_text())
    assert Config.model_validate(saved) == config


def test_changed_settings_become_tags(uri: str, make_config: MakeConfig) -> None:
    run = open_run(make_config(), uri)
    open_run(make_config(training={"steps": 7}), uri)
    data = connect(uri).get_run(run.run_id).data
    assert data.params["training.steps"] == "500000"
    assert data.tags["stem_complete.resumed.training.steps"] == "7"


def test_nothing_lands_in_the_working_directory(
    make_config: MakeConfig, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, folder = tmp_path / "work", tmp_path / "with space"
    work.mkdir()
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    monkeypatch.chdir(work)
    run = open_run(make_config(), default_uri(folder))
    finish_run(run, "FINISHED")
    assert not list(work.iterdir())
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "artifacts"}


def test_a_relative_database_is_the_same_from_any_folder(
    uri: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = pickle.loads(pickle.dumps(open_run(make_config(), "sqlite:///mlflow.db")))
    assert run.uri == uri


@pytest.mark.parametrize(
    "bad",
    ["http://127.0.0.1:9", "http://nowhere.invalid", "sqlite:////proc/none/mlflow.db"],
    ids=["nobody listens", "no such host", "no such folder"],
)
def test_an_unreachable_server_is_a_warning(
    bad: str, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(make_config(), bad)
    assert run.run_id is None
    assert "training goes on" in caplog.text
    finish_run(run, "FINISHED")
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert all("\n" not in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("bad", ["htp://host", "mlruns", "file:///tmp/mlruns", ""])
def test_an_impossible_uri_is_an_error(bad: str, make_config: MakeConfig) -> None:
    with pytest.raises(TrackingError, match=r"expected a tracking URI that MLflow can use"):
        open_run(make_config(), bad)


@pytest.mark.parametrize(
    ("uri", "fix"),
    [
        ("postgresql+asyncpg://host/mlflow", r"install its driver: .*pip install asyncpg$"),
        ("mysql://host/mlflow", r"install its driver: .*pip install mysqlclient$"),
        ("mysql+bad://host/mlflow", r"write mysql\+pymysql:// instead of mysql\+bad://$"),
        ("postgres://host/mlflow", r"write postgresql:// instead of postgres://$"),
        ("mariadb+x://host/mlflow", r"write mysql\+pymysql:// instead of mariadb\+x://$"),
        ("sqlite://mlflow.db", r"use http.* or sqlite:////absolute/path/mlflow.db$"),
        ("oracle://host/mlflow", r"use http\(s\)://host:port or sqlite:"),
    ],
)
def test_a_driver_that_is_missing_or_unknown_is_told_with_the_fix(
    uri: str, fix: str, make_config: MakeConfig
) -> None:
    with pytest.raises(TrackingError, match=fix):
        open_run(make_config(), uri)


def test_a_run_keeps_its_start_over_restarts_and_while_nobody_answers(
    uri: str, make_config: MakeConfig
) -> None:
    late = replace(open_run(make_config(), "http://127.0.0.1:9"), uri=uri)
    time.sleep(0.05)
    entered = enter_run(late)
    assert late.started_ms > 0
    for run in (entered, open_run(make_config(), uri)):
        assert connect(uri).get_run(run.run_id).info.start_time == late.started_ms


def test_a_node_finds_the_run_that_another_opens_late(uri: str, make_config: MakeConfig) -> None:
    late = replace(open_run(make_config(), "http://127.0.0.1:9"), uri=uri)
    assert find_run_id(late) is None
    entered = enter_run(late)
    assert find_run_id(late) == find_run_id(entered) == entered.run_id


def test_a_sweep_that_nobody_answered_gets_its_runs_later(
    uri: str, make_config: MakeConfig
) -> None:
    late = open_run(make_config("sweep"), "http://127.0.0.1:9")
    assert late.run_id is None
    parent = replace(late, uri=uri)  # the server is back
    children = [open_run(make_config(name), uri, parent=parent) for name in ("mse", "alrc")]
    again = open_run(make_config("mse"), uri, parent=parent)
    assert again.run_id == children[0].run_id
    sweep = open_run(make_config("sweep"), uri)
    for child in children:
        assert connect(uri).get_run(child.run_id).data.tags["mlflow.parentRunId"] == sweep.run_id
    assert len(all_runs(sweep)) == 3


def test_a_deleted_experiment_is_an_error(uri: str, make_config: MakeConfig) -> None:
    run = open_run(make_config(), uri)
    connect(uri).delete_experiment(experiment_id(run))
    with pytest.raises(TrackingError, match="restore it in MLflow"):
        open_run(make_config(), uri)
    finish_run(replace(run, run_id=None), "FINISHED")  # the run is over: it can only warn
