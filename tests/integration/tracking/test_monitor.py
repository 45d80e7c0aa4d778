"""System metrics by MLflow's own monitor, which is started again after an outage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from waiting import wait_until

from stem_complete.config import Config
from stem_complete.distributed import WorkerContext
from stem_complete.tracking import TrackedRun, finish_run, monitor, open_run, system_metrics
from stem_complete.tracking.client import connect
from stem_complete.tracking.runs import enter_run

MakeConfig = Callable[..., Config]
CPU = "system/{}/cpu_utilization_percentage"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_RETRY_S", 0.1)


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config(tracking={"system_metrics_every_s": 0.2})


@pytest.fixture
def on_node(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr("socket.gethostname", lambda: name)


def steps(run: TrackedRun, uri: str, node: str) -> list[int]:
    history = connect(uri).get_metric_history(run.run_id, CPU.format(node))
    return [point.step for point in history]


def test_nodes_are_apart_and_their_curves_rise_over_restarts(
    uri: str, config: Config, on_node: Callable[[str], None]
) -> None:
    run = open_run(config, uri)
    for node in ("gpu-1.lan", "gpu-2.lan", "gpu-1.lan"):
        on_node(node)
        name = node.replace(".", "_")
        before = len(steps(run, uri, name))
        with system_metrics(run, WorkerContext()):
            wait_until(
                lambda name=name, before=before: len(steps(run, uri, name)) >= before + 2, "metrics"
            )
    for name in ("gpu-1_lan", "gpu-2_lan"):
        found = steps(run, uri, name)
        assert found == sorted(set(found))
    names = connect(uri).get_run(run.run_id).data.metrics
    for what in ("system_memory_usage_megabytes", "disk_available_megabytes"):
        assert f"system/gpu-1_lan/{what}" in names


def test_only_the_first_worker_of_a_node_records_and_only_if_asked(
    uri: str, config: Config, make_config: MakeConfig
) -> None:
    run = open_run(config, uri)
    silent = open_run(make_config("b", tracking={"system_metrics_every_s": 0}), uri)
    for tracked, worker in (
        (run, WorkerContext(1, 2, local_rank=1)),
        (silent, WorkerContext()),
        (None, WorkerContext()),
    ):
        with system_metrics(tracked, worker):
            names = [thread.name for thread in threading.enumerate()]
            assert "system-metrics" not in names


def test_curves_go_on_after_an_outage(
    uri: str,
    config: Config,
    on_node: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Injected: every request fails for a while; first those of the start, then later ones."""
    on_node("a")
    run = open_run(config, uri)
    down, failed = threading.Event(), threading.Event()
    request = type(connect(uri)).get_run

    def fails_if_down(self: object, run_id: str) -> object:
        if down.is_set() and threading.current_thread().name == "system-metrics":
            failed.set()
            raise OSError("server is down")
        return request(self, run_id)

    monkeypatch.setattr("mlflow.MlflowClient.get_run", fails_if_down)
    down.set()
    with system_metrics(run, WorkerContext()):
        for _ in range(2):
            assert failed.wait(60)
            down.clear()
            before = len(steps(run, uri, "a"))
            wait_until(lambda before=before: len(steps(run, uri, "a")) >= before + 2, "metrics")
            failed.clear()
            down.set()
        assert failed.wait(60)
    found = steps(run, uri, "a")
    assert found == sorted(set(found))
    warnings = [message for message in caplog.messages if "server is down" in message]
    assert len(warnings) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_that_is_opened_late_is_recorded_from_then_on(
    uri: str, config: Config, on_node: Callable[[str], None]
) -> None:
    on_node("a")
    late = replace(open_run(config, "http://127.0.0.1:9"), uri=uri)
    with system_metrics(late, WorkerContext()):
        entered = enter_run(late)
        wait_until(lambda: len(steps(entered, uri, "a")) >= 1, "metrics")
    finish_run(entered, "FINISHED")


def test_a_part_that_fails_is_one_warning(
    uri: str,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lost(self: CPUMonitor) -> None:
        calls.append(1)
        raise RuntimeError("GPU is lost")

    calls: list[int] = []
    monkeypatch.setattr(CPUMonitor, "collect_metrics", lost)
    run = open_run(config, uri)
    caplog.clear()  # of the database, which was copied
    with system_metrics(run, WorkerContext()):
        wait_until(lambda: len(calls) >= 3, "three calls")
    assert ["GPU is lost" in message for message in caplog.messages] == [True]
