"""A run's folder on an object store, here one in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from upath import UPath
from waiting import TIMEOUT_S, wait_until

from stem_complete.config import Config
from stem_complete.tracking import MlflowRecorder, TrackedRun, open_run
from stem_complete.tracking.client import connect
from stem_complete.tracking.folder import RecordFolder
from stem_complete.tracking.journal import JOURNAL, Scalars
from stem_complete.tracking.links import PLACE_FILE

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return temporary


@pytest.fixture
def run(
    uri: str, make_config: Callable[..., Config], temporary: Path, tmp_path: Path
) -> Iterator[TrackedRun]:
    storage = UPath(f"memory://bucket{tmp_path}")
    training = {"checkpoint_every_steps": 10}
    yield open_run(make_config(storage=str(storage), training=training), uri)
    if storage.exists():
        storage.rmdir(recursive=True)


@pytest.fixture
def remote(run: TrackedRun) -> UPath:
    return UPath(run.config.run_folder)


def append(folder: RecordFolder, *steps: int) -> None:
    for step in steps:
        folder.journal.append(Scalars(1, step, {}))


def steps_in(journal: Path | UPath) -> list[int]:
    content = journal.read_bytes() if journal.exists() else b""
    return [json.loads(line)["step"] for line in content.splitlines()]


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = RecordFolder(UPath(tmp_path / "run"))
    append(folder, 1)
    folder.upload()
    folder.close()
    assert steps_in(tmp_path / "run" / JOURNAL) == [1]


def test_the_journal_is_uploaded_with_each_checkpoint_and_at_the_end(
    run: TrackedRun, remote: UPath, temporary: Path
) -> None:
    recorder = MlflowRecorder(run, flush_every_s=60)
    for step in range(2, 16, 2):
        recorder.scalars(step, {"a": 1.0})
        if step == 10:  # of a checkpoint
            wait_until(lambda: steps_in(remote / JOURNAL) == [2, 4, 6, 8, 10], "the upload")
    assert steps_in(remote / JOURNAL) == [2, 4, 6, 8, 10]
    recorder.close()
    assert steps_in(remote / JOURNAL) == list(range(2, 16, 2))
    assert not list(temporary.iterdir())


def test_what_mlflow_did_not_get_is_counted_although_all_was_uploaded(
    run: TrackedRun, remote: UPath, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = MlflowRecorder(replace(run, uri=DEAD), flush_every_s=60, close_timeout_s=5)
    recorder.scalars(10, {"a": 1.0})
    recorder.close()
    assert steps_in(remote / JOURNAL) == [10]
    assert not list(temporary.iterdir())
    assert f"has not confirmed 1 point and 0 files; they are in {remote}" in caplog.messages[-1]


def test_a_lost_host_costs_what_it_recorded_after_the_last_checkpoint(
    run: TrackedRun, remote: UPath, temporary: Path
) -> None:
    lost = MlflowRecorder(replace(run, uri=DEAD), flush_every_s=60, close_timeout_s=0)
    lost.picture(5, "p", np.zeros((4, 4), np.uint8))
    for step in (5, 10):
        lost.scalars(step, {"a": step})
    wait_until((remote / JOURNAL).exists, "the upload")
    lost._folder.upload = lambda: None  # type: ignore[method-assign]
    lost.scalars(15, {"a": -1.0})
    shutil.rmtree(lost._folder.path)

    recorder = MlflowRecorder(run, close_timeout_s=TIMEOUT_S)
    recorder.scalars(15, {"a": 15})
    recorder.close()
    points = connect(run.uri).get_metric_history(run.run_id, "a")
    assert [(point.step, point.value) for point in points] == [(5, 5), (10, 10), (15, 15)]
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000005")
    assert (remote / "completions" / "step-00000005" / "p.png").exists()


def refuse(*_: object) -> None:
    raise PermissionError("no access")


def test_what_a_store_does_not_take_is_kept_and_uploaded_later(
    remote: UPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RecordFolder(remote)
    append(folder, 1)
    with monkeypatch.context() as down:
        down.setattr(remote.fs, "put_file", refuse)
        folder.upload()
        folder.upload()
        folder.close()
    assert ["no access" in message for message in caplog.messages] == [True, False]
    assert f"{remote} has not all curves" in caplog.messages[1]
    assert folder.place == str(folder.path)
    assert steps_in(folder.path / JOURNAL) == [1]
    folder.upload()
    folder.close()
    assert folder.place == str(remote)
    assert steps_in(remote / JOURNAL) == [1]
    assert not folder.path.exists()


def test_a_journal_that_cannot_be_read_is_not_replaced(
    remote: UPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = RecordFolder(remote)
    append(first, 1, 2)
    first.upload()
    with monkeypatch.context() as down:
        down.setattr(remote.fs, "cat_file", refuse)
        second = RecordFolder(remote)
    append(second, 3)
    second.upload()
    second.close()
    assert "no access" in caplog.text
    assert steps_in(remote / JOURNAL) == [1, 2]
    assert steps_in(second.path / JOURNAL) == [3]


def test_a_run_that_recorded_nothing_leaves_nothing(run: TrackedRun, temporary: Path) -> None:
    MlflowRecorder(run).close()
    # But where it is in MLflow, for links.
    assert [file.name for file in run.config.run_folder.iterdir()] == [PLACE_FILE]
    assert not list(temporary.iterdir())
