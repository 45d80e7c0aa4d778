from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from mlflow.entities import Metric
from waiting import TIMEOUT_S, wait_until

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


def record(run: TrackedRun, **options: float) -> MlflowRecorder:
    return MlflowRecorder(run, **{"flush_every_s": 0.05, "close_timeout_s": TIMEOUT_S} | options)


def history(run: TrackedRun, metric: str, uri: str | None = None) -> list[tuple[int, float]]:
    points = connect(uri or run.uri).get_metric_history(run.run_id, metric)
    return [(point.step, point.value) for point in points]


def test_points_arrive_in_order_and_once(run: TrackedRun, caplog: pytest.LogCaptureFixture) -> None:
    recorder = record(run)
    for step in range(0, 3000, 2):
        recorder.scalars(step, {"train/outer_loss": step / 3, "train/beta1": 0.9})
    recorder.close()
    recorder.close()
    assert history(run, "train/outer_loss") == [(step, step / 3) for step in range(0, 3000, 2)]
    assert len(history(run, "train/beta1")) == 1500
    assert not caplog.records


def test_pictures_arrive(run: TrackedRun) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 31), np.uint8)
    recorder = record(run)
    recorder.picture(1234, "validation-0", image[:, ::-1])
    recorder.close()
    fetched = connect(run.uri).download_artifacts(
        run.run_id, "completions/step-00001234/validation-0.png"
    )
    assert np.array_equal(imagecodecs.png_decode(Path(fetched).read_bytes()), image[:, ::-1])
    names = {file.path for file in connect(run.uri).list_artifacts(run.run_id)}
    assert names == {"completions", "config.yaml"}


def test_a_resumed_run_repeats_no_point(run: TrackedRun) -> None:
    for steps in (range(60), range(40, 80)):
        recorder = record(run)
        for step in steps:
            recorder.scalars(step, {"a": step})
            if step % 10 == 0:
                recorder.scalars(step, {"b": -step})
        recorder.close()
    assert history(run, "a") == [(step, step) for step in range(80)]
    assert history(run, "b") == [(step, -step) for step in range(0, 80, 10)]


def test_a_later_recorder_delivers_what_an_earlier_one_could_not(
    run: TrackedRun, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run.config.run_folder
    recorder = record(replace(run, uri=DEAD), close_timeout_s=0.3)
    recorder.scalars(1, {"a": 1.0, "b": 2.0})
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.close()
    assert "has not confirmed 2 points and 1 file" in caplog.messages[-1]
    assert str(folder) in caplog.messages[-1]

    recorder = record(run)
    recorder.scalars(2, {"a": 3.0})
    recorder.close()
    assert history(run, "a") == [(1, 1.0), (2, 3.0)]
    assert history(run, "b") == [(1, 2.0)]
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000001")


def test_a_restart_sends_only_what_the_server_lacks(
    run: TrackedRun, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = record(run)
    for step in range(100):
        recorder.scalars(step, {"a": step})
    for name in "pq":
        recorder.picture(99, name, np.zeros((4, 4), np.uint8))
    recorder.close()
    connect(run.uri).log_batch(run.run_id, metrics=[Metric("b", 1.0, 1, 50)])
    journal = run.config.run_folder / "metrics.jsonl"
    journal.write_text(journal.read_text() + journal.read_text().replace('"a"', '"b"'))
    (run.config.run_folder / "completions" / "step-00000099" / "p.png").unlink()
    record(run).close()
    assert history(run, "a") == [(step, step) for step in range(100)]
    assert history(run, "b") == [(50, 1.0), *((step, step) for step in range(51, 100))]
    assert not caplog.records  # the picture that is gone is not missed


def test_a_new_server_gets_all_of_a_run(
    run: TrackedRun, tmp_path: Path, template: Path, make_config: MakeConfig
) -> None:
    recorder = record(run)
    recorder.scalars(1, {"a": 1.0})
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.close()
    (tmp_path / "other").mkdir()
    shutil.copy(template, tmp_path / "other")
    moved = open_run(make_config(), default_uri(tmp_path / "other"))
    record(moved).close()
    assert history(moved, "a") == [(1, 1.0)]
    assert connect(moved.uri).list_artifacts(moved.run_id, "completions/step-00000001")


def test_a_journal_and_state_of_an_earlier_version_go_on(uri: str, make_config: MakeConfig) -> None:
    """Two runs of one folder, the second of which is partly delivered."""
    config = make_config()
    entries = [
        {"time": 1, "step": 100, "values": {"a": 1.0}},
        {"time": 2, "step": 1, "values": {"a": 2.0}},
        {"time": 3, "file": "completions/step-00000001/p.png", "to": "completions/step-00000001"},
    ]
    lines = [json.dumps(entry) + "\n" for entry in entries]
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "metrics.jsonl").write_text("".join(lines))
    state = {"since": 5, "start": len(lines[0]), "delivered": {"x": len(lines[0])}}
    (config.run_folder / "metrics.jsonl.state").write_text(json.dumps(state))
    picture = config.run_folder / entries[2]["file"]
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"png")

    run = open_run(config, uri)
    recorder = record(run)
    recorder.scalars(2, {"a": 3.0})
    recorder.close()
    assert history(run, "a") == [(1, 2.0), (2, 3.0)]
    assert connect(uri).list_artifacts(run.run_id, "completions/step-00000001")


def test_a_new_run_in_an_old_folder_starts_empty(run: TrackedRun, make_config: MakeConfig) -> None:
    recorder = record(run)
    recorder.scalars(100, {"a": 1.0})
    recorder.close()
    anew = open_run(make_config(), run.uri, resume=False)
    recorder = record(anew)
    recorder.scalars(1, {"a": 2.0})
    recorder.close()
    assert history(anew, "a") == [(1, 2.0)]


def test_a_clock_that_is_behind_the_drivers_loses_nothing(
    run: TrackedRun, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = open_run(make_config(), run.uri, resume=False)
    now_ns = time.time_ns()
    monkeypatch.setattr("stem_complete.tracking.recorder.time.time_ns", lambda: now_ns - 60 * 10**9)
    recorder = record(anew)
    recorder.scalars(1, {"a": 1.0})
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.close()
    assert history(anew, "a") == [(1, 1.0)]
    assert connect(anew.uri).list_artifacts(anew.run_id, "completions/step-00000001")


def test_a_deleted_run_holds_nothing_up(run: TrackedRun, caplog: pytest.LogCaptureFixture) -> None:
    connect(run.uri).delete_run(run.run_id)
    recorder = record(run)
    recorder.scalars(1, {"a": 1.0})
    recorder.close()
    assert caplog.messages[-1].endswith("refused 1 point")


def test_points_do_not_wait_for_files(run: TrackedRun, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    artifacts.rename(tmp_path / "elsewhere")
    artifacts.write_text("a file where the artifact store should be")
    recorder = record(run)
    recorder.picture(1, "p", np.zeros((4, 4), np.uint8))
    recorder.scalars(1, {"a": 1.0})
    wait_until(lambda: history(run, "a") == [(1, 1.0)], "the first point")
    recorder.scalars(2, {"a": 2.0})
    wait_until(lambda: len(history(run, "a")) == 2, "the second point")
    artifacts.unlink()
    (tmp_path / "elsewhere").rename(artifacts)
    recorder.close()
    assert recorder.undelivered() == (0, 0)
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000001")


def test_a_full_disk_delays_what_is_recorded(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    recorder = record(run)
    (run.config.run_folder / "metrics.jsonl").mkdir()
    recorder.scalars(1, {"a": 1.0})
    recorder.scalars(2, {"a": 1.0})
    with monkeypatch.context() as full:
        full.setattr("stem_complete.tracking.recorder.write_atomically", refuse)
        for step in (1, 2):
            recorder.picture(step, "p", np.zeros((4, 4), np.uint8))
    assert len([message for message in caplog.messages if "cannot write" in message]) == 1
    (run.config.run_folder / "metrics.jsonl").rmdir()
    recorder.scalars(3, {"a": 1.0})
    recorder.close()
    assert history(run, "a") == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert len(connect(run.uri).list_artifacts(run.run_id, "completions")) == 2


@pytest.mark.parametrize(
    "name", ["a|b", "a;b", "100%", "", "a//b", "/a", "a/", "../a", ".", "a" * 251]
)
def test_refuses_names_that_mlflow_would(run: TrackedRun, name: str) -> None:
    recorder = record(run)
    with pytest.raises(ValueError, match="MLflow takes no metric"):
        recorder.scalars(1, {name: 1.0})
    recorder.close()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)], ids=["float", "colour"]
)
def test_refuses_other_pictures(run: TrackedRun, image: np.ndarray) -> None:
    recorder = record(run)
    with pytest.raises(ValueError, match="picture must be uint8"):
        recorder.picture(1, "p", image)
    recorder.close()


def test_closing_does_not_wait_for_a_server_that_hangs(
    run: TrackedRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hung = replace(run, uri=f"http://127.0.0.1:{mute.getsockname()[1]}")
        recorder = record(hung, close_timeout_s=0.5)
        recorder.scalars(1, {"a": 1.0})
        mute.settimeout(TIMEOUT_S)
        request, _ = mute.accept()
        recorder.close()
        assert recorder._thread.is_alive(), "it waited for the answer"
        assert recorder.undelivered() == (1, 0)
        request.close()
    # The thread ends when its request does, and has nothing more to say of a run that is over.
    recorder._thread.join(TIMEOUT_S)
    assert not recorder._thread.is_alive()
    (message,) = caplog.messages
    assert "has not confirmed 1 point and 0 files (too slow)" in message
