from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from stem_complete.config import Config
from stem_complete.tracking import MlflowRecorder, SystemMetrics, TrackedRun, finish_run, open_run
from stem_complete.tracking import system_metrics as module
from stem_complete.tracking.client import connect
from stem_complete.tracking.samples import SAMPLES, Samples

MakeConfig = Callable[..., Config]


@pytest.fixture
def run(uri: str, make_config: MakeConfig) -> TrackedRun:
    return open_run(make_config(), uri)


def record(folder: Path, *nodes: str, for_s: float = 0.0) -> None:
    samplers = [SystemMetrics(folder, every_s=0.5, node=node) for node in nodes]
    time.sleep(for_s)
    for sampler in samplers:
        sampler.close()


def deliver(run: TrackedRun, folder: Path) -> dict[str, list[tuple[int, int, float]]]:
    """Points (step, time in ms, value) of every metric that MLflow has afterwards."""
    MlflowRecorder(run, folder, flush_every_s=0.05, close_timeout_s=20).close()
    client = connect(run.uri)
    return {
        key: [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run.run_id, key)]
        for key in client.get_run(run.run_id).data.metrics
    }


def test_metrics_are_those_of_mlflows_own_monitor(run: TrackedRun, tmp_path: Path) -> None:
    record(tmp_path / "run", "gpu-node-1.lan")
    monitor = SystemMetricsMonitor(run.run_id, node_id="gpu-node-1_lan", tracking_uri=run.uri)
    monitor.collect_metrics()
    own = {f"system/gpu-node-1_lan/{key}" for key in monitor.aggregate_metrics()}
    history = deliver(run, tmp_path / "run")
    assert history.keys() == own
    assert "system/gpu-node-1_lan/cpu_utilization_percentage" in own
    for key, points in history.items():
        for _, time_ms, value in points:
            assert abs(time_ms / 1000 - time.time()) < 60
            assert 0 <= value <= (100 if key.endswith("percentage") else 1e9)


def test_nodes_are_apart_and_steps_are_seconds_that_rise_over_restarts(
    run: TrackedRun, tmp_path: Path
) -> None:
    for _ in range(2):
        record(tmp_path / "run", "a", "b", for_s=1.2)
        history = deliver(run, tmp_path / "run")
    for node in "ab":
        points = history[f"system/{node}/system_memory_usage_megabytes"]
        steps = [step for step, _, _ in points]
        assert len(points) >= 3
        assert steps == sorted(set(steps))
        assert steps == [(time_ms - run.started_ms) // 1000 for _, time_ms, _ in points]
    assert not list((tmp_path / "run" / SAMPLES).iterdir())


def test_a_busy_machine_shows(run: TrackedRun, tmp_path: Path) -> None:
    sampler = SystemMetrics(tmp_path / "run", every_s=3600, node="a")
    until = time.process_time() + 1.0
    while time.process_time() < until:
        pass
    sampler.close()
    ((_, _, busy),) = deliver(run, tmp_path / "run")["system/a/cpu_utilization_percentage"]
    assert busy > 10 / (os.cpu_count() or 1)


def test_samples_wait_for_a_server_that_is_down(
    run: TrackedRun, tmp_path: Path, make_config: MakeConfig
) -> None:
    dead = replace(run, uri="http://127.0.0.1:9")
    record(tmp_path / "run", "a")
    MlflowRecorder(dead, tmp_path / "run", close_timeout_s=0.3).close()
    assert len(list((tmp_path / "run" / SAMPLES).iterdir())) == 1
    assert len(deliver(run, tmp_path / "run")["system/a/disk_usage_percentage"]) == 1


def test_samples_of_an_earlier_run_are_not_those_of_a_new_one(
    run: TrackedRun, tmp_path: Path, make_config: MakeConfig
) -> None:
    record(tmp_path / "run", "a")
    time.sleep(0.01)
    anew = open_run(make_config(), run.uri, resume=False)
    assert deliver(anew, tmp_path / "run") == {}
    assert not list((tmp_path / "run" / SAMPLES).iterdir())


def test_a_run_that_ends_has_what_its_nodes_left(run: TrackedRun) -> None:
    folder = run.config.run_folder
    Samples(folder / SAMPLES).add("a", run.started_ms + 7000, {"system/a/x": 1.0})
    finish_run(run, "FAILED")
    (point,) = connect(run.uri).get_metric_history(run.run_id, "system/a/x")
    assert (point.step, point.value) == (7, 1.0)


class _LostGpu(BaseMetricsMonitor):
    def collect_metrics(self) -> None:
        raise RuntimeError("GPU is lost")

    def aggregate_metrics(self) -> dict[str, float]:
        return {}


def test_a_part_that_fails_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_collectors", lambda: [_LostGpu(), CPUMonitor()])
    record(tmp_path, "a", for_s=1.2)
    samples = list(Samples(tmp_path / SAMPLES).read().values())
    assert len(samples) >= 2
    assert all("system/a/cpu_utilization_percentage" in sample["values"] for sample in samples)
    (message,) = caplog.messages
    assert "GPU is lost" in message


def test_samples_wait_for_a_store_that_is_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SAMPLES).write_text("a file where the folder should be")
    sampler = SystemMetrics(tmp_path, every_s=0.2, node="a")
    while not caplog.records:
        time.sleep(0.05)
    time.sleep(2)  # for more samples to wait, on a busy machine too
    (tmp_path / SAMPLES).unlink()
    sampler.close()
    assert len(Samples(tmp_path / SAMPLES).read()) >= 2
    assert len(caplog.records) == 1
