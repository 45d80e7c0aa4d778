"""A run's folder on an object store, here one in memory; its local copy may be lost or old."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from stem_complete.config import Config
from stem_complete.tracking import MlflowRecorder, TrackedRun, open_run
from stem_complete.tracking.client import connect
from stem_complete.tracking.folder import MirroredFolder, RecordFolder, record_folder
from stem_complete.tracking.journal import JOURNAL

Mirror = Callable[..., MirroredFolder]
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    remote = UPath(f"memory://bucket{tmp_path}/runs/a run")
    yield remote
    if remote.exists():
        remote.rmdir(recursive=True)


@pytest.fixture
def mirror(remote: UPath) -> Iterator[Mirror]:
    """Opens the folder; at the end no thread is left."""
    folders = []

    def mirror(**options: float) -> MirroredFolder:
        folders.append(MirroredFolder(remote, **options))
        return folders[-1]

    yield mirror
    for folder in folders:
        if folder._thread.is_alive():
            kill(folder)


@pytest.fixture
def run(uri: str, make_config: Callable[..., Config]) -> TrackedRun:
    return open_run(make_config(), uri)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def append(folder: RecordFolder, *steps: int) -> None:
    for step in steps:
        folder.journal.append({"time": 1, "step": step, "values": {}})


def steps_in(content: bytes) -> list[int]:
    return [json.loads(line)["step"] for line in content.splitlines()]


def steps(folder: RecordFolder) -> list[int]:
    return steps_in(folder.journal.path.read_bytes())


def kill(folder: MirroredFolder) -> None:
    """Ends its thread without a last upload, as SIGKILL would."""
    folder._upload = lambda everything: None  # type: ignore[method-assign]
    folder._closing.set()
    folder._hurry.set()
    folder._thread.join()


def test_a_path_is_its_own_folder(tmp_path: Path) -> None:
    folder = record_folder(UPath(tmp_path / "run"))
    assert type(folder) is RecordFolder
    append(folder, 1)
    folder.close(delivered=True)
    assert steps(record_folder(tmp_path / "run")) == [1]


def test_what_mlflow_lacks_is_uploaded_soon(remote: UPath, mirror: Mirror) -> None:
    folder = mirror(upload_every_s=0.05)
    append(folder, 1, 2)
    wait_for((remote / JOURNAL).exists)
    append(folder, 3)
    wait_for(lambda: steps_in((remote / JOURNAL).read_bytes()) == [1, 2, 3])


def test_what_mlflow_has_is_not_uploaded_again_and_again(remote: UPath, mirror: Mirror) -> None:
    folder = mirror(upload_every_s=0.02)
    append(folder, 1)
    folder.journal.mark("run", folder.journal.size())
    time.sleep(0.3)
    assert not (remote / JOURNAL).exists()
    folder.close(delivered=True)
    assert steps_in((remote / JOURNAL).read_bytes()) == [1]


def test_refreshes_what_mlflow_has_now_and_then(remote: UPath, mirror: Mirror) -> None:
    folder = mirror(upload_every_s=0.02, refresh_every_s=0.1)
    append(folder, 1)
    folder.journal.mark("run", folder.journal.size())
    wait_for((remote / JOURNAL).exists)


def test_another_machine_goes_on_from_what_was_uploaded(remote: UPath, mirror: Mirror) -> None:
    first = mirror()
    append(first, 1, 2)
    first.journal.mark("run", first.journal.size())
    first.close(delivered=True)
    assert not first.path.exists()
    second = mirror()
    assert steps(second) == [1, 2]
    assert second.journal.delivered("run") == second.journal.size() > 0
    append(second, 3)
    second.close(delivered=False)
    assert steps(mirror()) == [1, 2, 3]


def test_the_same_machine_loses_nothing_that_was_not_uploaded(
    remote: UPath, mirror: Mirror
) -> None:
    first = mirror()
    append(first, 1, 2)
    kill(first)
    second = mirror()
    assert second.path == first.path
    append(second, 3)
    second.close(delivered=False)
    assert steps_in((remote / JOURNAL).read_bytes()) == [1, 2, 3]


def test_journals_of_two_machines_are_joined(remote: UPath, mirror: Mirror) -> None:
    here = mirror(upload_every_s=0.02)
    append(here, 1, 2)
    wait_for((remote / JOURNAL).exists)
    kill(here)
    append(here, 3)  # never uploaded
    elsewhere = here.path.rename(here.path.with_name("elsewhere"))
    there = mirror()
    append(there, 4)
    there.journal.mark("run", there.journal.size())
    there.close(delivered=True)

    elsewhere.rename(here.path)
    again = mirror()
    assert steps(again) == [1, 2, 4, 3]
    # Only what both machines know is taken for delivered.
    assert [e["step"] for e in again.journal.read(again.journal.delivered("run"))[0]] == [3]


def test_pictures_follow_their_run_to_another_machine(run: TrackedRun, remote: UPath) -> None:
    recorder = MlflowRecorder(replace(run, uri=DEAD), remote, close_timeout_s=0.3)
    recorder.picture(7, "p", np.zeros((4, 4), np.uint8))
    recorder.scalars(7, {"a": 1.0})
    recorder.close()
    assert (remote / "completions" / "step-00000007" / "p.png").exists()
    assert not list(recorder._folder.path.parent.iterdir())

    MlflowRecorder(run, remote, close_timeout_s=20).close()
    (point,) = connect(run.uri).get_metric_history(run.run_id, "a")
    assert (point.step, point.value) == (7, 1.0)
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000007")
    assert not list(recorder._folder.path.parent.iterdir())


def test_a_store_that_fails_is_a_warning_until_it_is_back(
    remote: UPath, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no access")

    folder = mirror(upload_every_s=0.02)
    with monkeypatch.context() as down:
        down.setattr(remote.fs, "pipe_file", refuse)
        append(folder, 1)
        wait_for(lambda: bool(caplog.records))
        time.sleep(0.2)
    assert ["no access" in message for message in caplog.messages] == [True]
    wait_for((remote / JOURNAL).exists)
    folder.close(delivered=True)
    assert len(caplog.records) == 1


def test_what_a_store_never_took_stays_here(
    remote: UPath, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no access")

    monkeypatch.setattr(remote.fs, "pipe_file", refuse)
    folder = mirror()
    append(folder, 1)
    folder.close(delivered=True)
    assert steps(folder) == [1]
    assert str(folder.path) in caplog.messages[-1]


def test_a_journal_that_could_not_be_read_is_not_replaced(
    remote: UPath, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no access")

    first = mirror()
    append(first, 1, 2)
    first.close(delivered=False)
    with monkeypatch.context() as down:
        down.setattr(remote.fs, "cat_file", refuse)
        second = mirror(upload_every_s=0.02)
    append(second, 3)
    time.sleep(0.2)
    second.close(delivered=True)
    assert "kept in" in caplog.messages[0]
    assert steps_in((remote / JOURNAL).read_bytes()) == [1, 2]
    assert steps(mirror()) == [1, 2, 3]


def test_a_run_that_recorded_nothing_leaves_nothing(
    remote: UPath, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    folder = mirror()
    folder.save()
    folder.close(delivered=True)
    assert not remote.exists()
    assert not folder.path.exists()
    assert not caplog.records


def test_copies_of_different_runs_are_apart(remote: UPath) -> None:
    folders = [MirroredFolder(remote), MirroredFolder(remote.parent.parent / "b" / remote.name)]
    assert folders[0].path != folders[1].path
    for folder in folders:
        folder.close(delivered=True)
