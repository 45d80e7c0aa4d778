from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from stem_complete.config import Config
from stem_complete.tracking import MlflowRecorder, TrackedRun, default_uri, open_run
from stem_complete.tracking.client import connect

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

MakeConfig = Callable[..., Config]
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def run(uri: str, make_config: MakeConfig) -> TrackedRun:
    return open_run(make_config(), uri)


def record(run: TrackedRun, folder: Path | None, **options: float) -> MlflowRecorder:
    return MlflowRecorder(run, folder, **{"flush_every_s": 0.05, "close_timeout_s": 20} | options)


def history(run: TrackedRun, metric: str, uri: str | None = None) -> list[tuple[int, float]]:
    points = connect(uri or run.uri).get_metric_history(run.run_id, metric)
    return [(point.step, point.value) for point in points]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_points_arrive_in_order_and_once(
    run: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = record(run, tmp_path / "run")
    for step in range(0, 3000, 2):
        recorder.scalars(step, {"train/outer_loss": step / 3, "train/beta1": 0.9})
    recorder.close()
    recorder.close()
    assert history(run, "train/outer_loss") == [(step, step / 3) for step in range(0, 3000, 2)]
    assert len(history(run, "train/beta1")) == 1500
    assert not caplog.records


def test_pictures_and_artifacts_arrive(run: TrackedRun, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 31), np.uint8)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    recorder = record(run, tmp_path / "run")
    recorder.picture(1234, "validation-0", image[:, ::-1])
    recorder.artifact(model)
    recorder.artifact(model / "model.json")
    recorder.close()

    fetched = Path(
        connect(run.uri).download_artifacts(
            run.run_id, "completions/step-00001234/validation-0.png"
        )
    )
    assert np.array_equal(imagecodecs.png_decode(fetched.read_bytes()), image[:, ::-1])
    names = {file.path for file in connect(run.uri).list_artifacts(run.run_id)}
    assert names == {"completions", "config.yaml", "model", "model.json"}
    assert connect(run.uri).list_artifacts(run.run_id, "model")[0].path == "model/model.json"


def test_a_resumed_run_repeats_no_point(run: TrackedRun, tmp_path: Path) -> None:
    for steps in (range(60), range(40, 80)):
        recorder = record(run, tmp_path / "run")
        for step in steps:
            recorder.scalars(step, {"a": step})
            if step % 10 == 0:
                recorder.scalars(step, {"b": -step})
        recorder.close()
    assert history(run, "a") == [(step, step) for step in range(80)]
    assert history(run, "b") == [(step, -step) for step in range(0, 80, 10)]


def test_a_later_recorder_delivers_what_an_earlier_one_could_not(
    run: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    recorder = record(replace(run, uri=DEAD), folder, close_timeout_s=0.3)
    recorder.scalars(1, {"a": 1.0, "b": 2.0})
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    started = time.monotonic()
    recorder.close()
    assert time.monotonic() - started < 5
    assert "did not take 2 points and 1 files" in caplog.messages[-1]
    assert str(folder) in caplog.messages[-1]

    recorder = record(run, folder)
    recorder.scalars(2, {"a": 3.0})
    recorder.close()
    assert history(run, "a") == [(1, 1.0), (2, 3.0)]
    assert history(run, "b") == [(1, 2.0)]
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000001")


def test_delivered_files_are_not_sent_again(
    run: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "report.txt"
    file.write_text("x")
    recorder = record(run, tmp_path / "run")
    recorder.artifact(file)
    recorder.close()
    file.unlink()
    record(run, tmp_path / "run").close()
    assert not caplog.records  # it would have missed the file


def test_what_was_delivered_is_not_read_again(run: TrackedRun, tmp_path: Path) -> None:
    recorder = record(run, tmp_path / "run")
    for step in range(100):
        recorder.scalars(step, {"a": step})
    recorder.close()
    journal = tmp_path / "run" / "metrics.jsonl"
    journal.write_text(journal.read_text().replace('"a"', '"b"'))
    recorder = record(run, tmp_path / "run")
    recorder.scalars(100, {"a": 100.0})
    recorder.close()
    assert history(run, "a") == [(step, step) for step in range(101)]
    assert history(run, "b") == []


def test_a_new_server_gets_all_of_a_run(
    run: TrackedRun, tmp_path: Path, template: Path, make_config: MakeConfig
) -> None:
    recorder = record(run, tmp_path / "run")
    recorder.scalars(1, {"a": 1.0})
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.close()
    (tmp_path / "other").mkdir()
    shutil.copy(template, tmp_path / "other")
    moved = open_run(make_config(), default_uri(tmp_path / "other"))
    record(moved, tmp_path / "run").close()
    assert history(moved, "a") == [(1, 1.0)]
    assert connect(moved.uri).list_artifacts(moved.run_id, "completions/step-00000001")


def test_a_new_run_in_an_old_folder_starts_empty(
    run: TrackedRun, tmp_path: Path, make_config: MakeConfig
) -> None:
    recorder = record(run, tmp_path / "run")
    recorder.scalars(100, {"a": 1.0})
    recorder.close()
    anew = open_run(make_config(), run.uri, resume=False)
    recorder = record(anew, tmp_path / "run")
    recorder.scalars(1, {"a": 2.0})
    recorder.close()
    assert history(anew, "a") == [(1, 2.0)]


def test_a_clock_that_is_behind_the_drivers_loses_nothing(
    run: TrackedRun, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = open_run(make_config(), run.uri, resume=False)
    now_ns = time.time_ns()
    monkeypatch.setattr("stem_complete.tracking.recorder.time.time_ns", lambda: now_ns - 60 * 10**9)
    recorder = record(anew, tmp_path / "run")
    recorder.scalars(1, {"a": 1.0})
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.close()
    assert history(anew, "a") == [(1, 1.0)]
    assert connect(anew.uri).list_artifacts(anew.run_id, "completions/step-00000001")


def test_without_a_folder_nothing_stays_behind(
    run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    recorder = record(run, None)
    recorder.scalars(1, {"a": 1.0})
    recorder.close()
    assert history(run, "a") == [(1, 1.0)]
    assert not list((tmp_path / "temporary").iterdir())


def test_without_a_folder_what_is_undelivered_stays(
    run: TrackedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    recorder = record(replace(run, uri=DEAD), None, close_timeout_s=0.3)
    recorder.scalars(1, {"a": 1.0})
    recorder.close()
    (journal,) = tmp_path.glob("stem-complete-*/metrics.jsonl")
    assert f"they are in {journal.parent}" in caplog.messages[-1]


def test_a_deleted_run_holds_nothing_up(
    run: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connect(run.uri).delete_run(run.run_id)
    recorder = record(run, tmp_path / "run")
    recorder.scalars(1, {"a": 1.0})
    started = time.monotonic()
    recorder.close()
    assert time.monotonic() - started < 10
    assert "refused 1 points" in caplog.messages[-1]


def test_points_do_not_wait_for_files(run: TrackedRun, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    artifacts.rename(tmp_path / "elsewhere")
    artifacts.write_text("a file where the artifact store should be")
    recorder = record(run, tmp_path / "run", close_timeout_s=15)
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.scalars(1, {"a": 1.0})
    wait_for(lambda: history(run, "a") == [(1, 1.0)])
    recorder.scalars(2, {"a": 2.0})
    wait_for(lambda: len(history(run, "a")) == 2)
    artifacts.unlink()
    (tmp_path / "elsewhere").rename(artifacts)
    recorder.close()
    assert recorder.undelivered() == (0, 0)
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000001")


def test_a_full_disk_is_a_warning(
    run: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = record(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    recorder.scalars(1, {"a": 1.0})
    recorder.scalars(2, {"a": 1.0})
    assert len([message for message in caplog.messages if "cannot write" in message]) == 1
    (tmp_path / "run" / "metrics.jsonl").rmdir()
    recorder.scalars(3, {"a": 1.0})
    recorder.close()
    assert history(run, "a") == [(3, 1.0)]


@pytest.mark.parametrize(
    "name", ["a|b", "a;b", "100%", "", "a//b", "/a", "a/", "../a", ".", "a" * 251]
)
def test_refuses_names_that_mlflow_would(run: TrackedRun, tmp_path: Path, name: str) -> None:
    recorder = record(run, tmp_path / "run")
    with pytest.raises(ValueError, match="MLflow takes no metric"):
        recorder.scalars(1, {name: 1.0})
    recorder.close()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)], ids=["float", "colour"]
)
def test_refuses_other_pictures(run: TrackedRun, tmp_path: Path, image: np.ndarray) -> None:
    recorder = record(run, tmp_path / "run")
    with pytest.raises(ValueError, match="picture must be uint8"):
        recorder.picture(1, "p", image)
    recorder.close()


def test_closing_does_not_wait_for_a_server_that_hangs(
    run: TrackedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hung = replace(run, uri=f"http://127.0.0.1:{mute.getsockname()[1]}")
        recorder = record(hung, tmp_path / "run", close_timeout_s=0.5)
        recorder.scalars(1, {"a": 1.0})
        time.sleep(0.2)
        started = time.monotonic()
        recorder.close()
        assert time.monotonic() - started < 4
        assert recorder.undelivered() == (1, 0)
    # The thread ends when its request does, and has nothing more to say of a run that is over.
    recorder._thread.join(20)
    assert not recorder._thread.is_alive()
    (message,) = caplog.messages
    assert "did not take 1 points and 0 files (too slow)" in message
