"""The SQLite database of runs: made once, whatever ends half-way, and moved with its runs."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from training_runs import ALONE
from waiting import TIMEOUT_S

from stem_complete.config import Config
from stem_complete.errors import TrackingError
from stem_complete.tracking import (
    MlflowRecorder,
    TrackedRuns,
    default_uri,
    finish_run,
    open_run,
    system_metrics,
)
from stem_complete.tracking.client import connect
from stem_complete.tracking.database import DamagedDatabaseError, check_intact, prepare
from stem_complete.tracking.links import places
from stem_complete.training import Checkpoints

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

MakeConfig = Callable[..., Config]

OPEN = """
import sys
from stem_complete.config import Config
from stem_complete.tracking import default_uri, open_run
name, storage = sys.argv[1:]
values = {"name": name, "storage": storage, "data": {"store": "store.zarr"}}
run = open_run(Config.model_validate(values), default_uri(storage))
print(run.run_id)
"""


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(statement)


def opening(name: str, storage: Path) -> subprocess.Popen[str]:
    """A process that opens a run."""
    command = [sys.executable, "-c", OPEN, name, str(storage)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:50],
        lambda whole: whole[:4096] + b"\xff" * 4096 + whole[8192:],
        lambda whole: b"no database" * 999,
        lambda whole: bytes(len(whole)),
    ],
    ids=["half", "cut in the header", "a page", "another file", "zeros"],
)
def test_a_damaged_one_is_told_and_not_to_be_served(tmp_path: Path, damage) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("CREATE INDEX names ON runs (name)")
        database.executemany("INSERT INTO runs (name) VALUES (?)", [("x" * 99,)] * 999)
    check_intact(file)
    assert "start MLflow" in places(f"sqlite:///{file}")
    file.write_bytes(damage(file.read_bytes()))
    told = rf"^{file}: expected an SQLite database, found a damaged one .*; restore it from a copy"
    for check in (check_intact, prepare):
        with pytest.raises(DamagedDatabaseError, match=told):
            check(file)
    assert list(places(f"sqlite:///{file}", "1", "abc")) == ["MLflow"]


def test_a_removed_working_directory_is_no_outage(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    config = make_config()
    assert open_run(config, default_uri(config.storage)).run_id
    assert caplog.messages == []


def test_two_processes_make_it_once_after_another_was_killed_half_way(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with opening("killed", tmp_path) as killed:
        while not [draft for draft in tmp_path.glob(".unfinished-*.db") if draft.stat().st_size]:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
    assert not (tmp_path / "mlflow.db").exists()
    with opening("a", tmp_path) as another:
        own = open_run(make_config("b", storage=str(tmp_path)), default_uri(tmp_path))
        output, error = another.communicate()
    run_ids = {output.strip(), str(own.run_id)}
    assert len(run_ids - {"None", ""}) == 2, output
    assert error == ""
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "artifacts"}
    client = connect(default_uri(tmp_path))
    assert {client.get_run(run_id).info.run_name for run_id in run_ids} == {"a", "b"}


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM alembic_version",
        "UPDATE alembic_version SET version_num = '451aebb31d03'",
        "DROP TABLE alembic_version",
        "",
    ],
    ids=["no version", "an early version", "no table of versions", "empty"],
)
def test_one_that_was_left_half_made_is_put_aside(
    damage: str,
    make_config: MakeConfig,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "mlflow.db"
    if damage:
        shutil.copy(template, file)
        change(file, damage)
    else:
        file.touch()

    class Quickly:
        """Makes a database as MLflow does, but not in 9 s."""

        def __init__(self, uri: str, _: str) -> None:
            shutil.copy(template, uri.removeprefix("sqlite:///"))
            self.engine = self

        def dispose(self) -> None: ...

    with monkeypatch.context() as quick:
        quick.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Quickly)
        prepare(file)
    assert open_run(make_config(), default_uri(tmp_path)).run_id is not None
    assert (tmp_path / "mlflow.db.half-made").exists() == bool(damage)
    # Of the template's place, which is another, it may tell besides.
    assert len([told for told in caplog.messages if "half made" in told]) == bool(damage)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "UPDATE alembic_version SET version_num = '451aebb31d03'",
            "`mlflow db upgrade sqlite:///",
        ),
        ("UPDATE alembic_version SET version_num = 'fedcba987654'", "install the newer MLflow"),
        (None, "file is not a database"),
    ],
    ids=["older", "newer", "another file"],
)
def test_one_that_cannot_be_used_is_an_outage_with_a_fix(
    damage: str | None,
    expected: str,
    make_config: MakeConfig,
    template: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "kept" / "mlflow.db"
    file.parent.mkdir()
    shutil.copy(template, file)
    run = open_run(make_config(), default_uri(file.parent))
    unusable = tmp_path / "mlflow.db"
    shutil.copy(file, unusable)
    if damage:
        change(unusable, damage)
    else:
        unusable.write_text("no database " * 100)
    before = unusable.read_bytes()

    caplog.clear()
    late = open_run(make_config(), default_uri(tmp_path))
    assert late.run_id is None
    recorder = MlflowRecorder(late, flush_every_s=0.05, close_timeout_s=0.5)
    recorder.scalars(1, {"a": 1.0})
    with system_metrics(late, ALONE):
        recorder.close()
    finish_run(late, "FINISHED")
    outage, end = caplog.messages
    assert expected in outage
    assert "training goes on" in outage
    assert "has not confirmed 1 point and 0 files; they are in" in end
    with pytest.raises(TrackingError, match=r"upgrade|install|choose|restore"):
        TrackedRuns(default_uri(tmp_path), "stem-complete").curves("a")
    assert unusable.read_bytes() == before

    file.replace(unusable)  # it was brought up to date
    again = open_run(make_config(), default_uri(tmp_path))
    recorder = MlflowRecorder(again, close_timeout_s=TIMEOUT_S)
    recorder.close()
    assert again.run_id == run.run_id
    assert len(connect(again.uri).get_metric_history(again.run_id, "a")) == 1


def record(config: Config, step: int) -> str:
    """Opens a run, records a point and a picture, and returns its id."""
    _artifact_repos_cache.clear()  # as in a process of its own
    run = open_run(config, default_uri(config.storage))
    recorder = MlflowRecorder(run, close_timeout_s=TIMEOUT_S)
    recorder.scalars(step, {"a": float(step)})
    recorder.picture(step, "p", np.zeros((4, 4), np.uint8))
    recorder.close()
    assert run.run_id is not None
    return run.run_id


def pictures(config: Config, run_id: str) -> list[str]:
    """Names of a run's pictures as MLflow lists them, which are those beside its database."""
    files = connect(default_uri(config.storage)).list_artifacts(run_id, "completions")
    names = [Path(file.path).name for file in files]
    own = "0" if config.tracking.experiment == "Default" else ""
    folder = Path(config.storage) / "artifacts" / own / run_id / "artifacts" / "completions"
    assert names == sorted(path.name for path in folder.iterdir())
    return names


@pytest.mark.parametrize(
    ("way", "experiment"),
    [("moved", "stem-complete"), ("moved", "Default"), ("copied", "mine"), ("by a link", "mine")],
)
def test_a_storage_that_was_moved_goes_on_with_its_runs(
    way: str, experiment: str, make_config: MakeConfig, template: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old runs", tmp_path / "new"
    old.mkdir()
    shutil.copy(template, old / "mlflow.db")
    # Where this program makes MLflow's own experiment.
    default = f"UPDATE experiments SET artifact_location = '{(old / 'artifacts').as_uri()}/0'"
    change(old / "mlflow.db", default)
    tracking = {"experiment": experiment}
    before = make_config(storage=old, tracking=tracking)
    run_id = record(before, 1)
    if way == "moved":
        old.rename(new)
    elif way == "copied":
        shutil.copytree(old, new)
    else:
        new.symlink_to(old)

    after = make_config(storage=new, tracking=tracking)
    assert record(after, 2) == run_id
    assert pictures(after, run_id) == ["step-00000001", "step-00000002"]
    points = connect(default_uri(new)).get_metric_history(run_id, "a")
    assert [point.step for point in points] == [1, 2]
    client = connect(default_uri(new))
    assert len(client.search_runs([client.get_run(run_id).info.experiment_id])) == 1
    if way == "moved":
        assert not old.exists()
    if way == "copied":
        assert pictures(before, run_id) == ["step-00000001"]
        assert record(before, 3) == run_id
        assert pictures(before, run_id) == ["step-00000001", "step-00000003"]
        assert pictures(after, run_id) == ["step-00000001", "step-00000002"]


def test_a_run_that_was_moved_away_from_its_server_is_found_by_its_checkpoint(
    uri: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_config(storage=tmp_path / "old")
    run = open_run(before, uri)
    written = {"config": before.model_dump(mode="json")}
    monkeypatch.setattr(Checkpoints, "readable", lambda self: {self.folder: written})
    before.run_folder.mkdir(parents=True)
    copied = open_run(make_config(storage=tmp_path / "copy"), uri)
    assert copied.run_id != run.run_id
    (tmp_path / "old").rename(tmp_path / "new")
    after = make_config(storage=tmp_path / "new")
    assert open_run(after, uri).run_id == run.run_id
    assert open_run(after, uri).run_id == run.run_id  # by its new place
    assert connect(uri).get_run(run.run_id).data.tags["stem_complete.run"] == str(after.run_folder)


def test_a_database_that_another_process_holds_is_an_outage(
    uri: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stem_complete.tracking.database._BUSY_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert open_run(make_config(), uri).run_id is None
    assert open_run(make_config(), uri).run_id is not None
