"""Benchmarks of whole training runs: what they read off processes, with small stand-ins for runs.

Real runs take minutes; those that start are in the integration tests.
"""

import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist

from stem_complete.benchmarks import Effort, memory, ray_train, scaling, scaling_rank, tracking
from stem_complete.benchmarks.runs import Command, run_config, windows
from stem_complete.benchmarks.scaling_rank import (
    APART,
    COLLECTIVES,
    ONE_BY_ONE,
    PACKED,
    PROFILED,
    STEP,
    Clock,
    Task,
    covered,
    time_loop,
    time_reads,
)
from stem_complete.distributed import WorkerContext
from stem_complete.models import build_network

QUICK = Effort(rounds=2, quick=True)

# Writes a journal as a run does that logs every STEPS steps; keeps so many bytes of each step.
RUN = """
import json, sys, time
journal, step_s, num_steps, every, leak = json.loads(sys.argv[1])
kept = []
for step in range(every, num_steps + 1, every):
    started = time.perf_counter()
    time.sleep(every * step_s)
    kept.append(b"x" * (every * leak))
    values = {"train/examples_per_s": every / (time.perf_counter() - started)}
    with open(journal, "a") as file:
        entry = {"time": time.time_ns() // 10**6, "step": step, "values": values}
        file.write(json.dumps(entry) + "\\n")
"""


def stand_in(config, step_s, num_steps=10_000, leak=0):
    """Command of a run with one example a step that only sleeps."""
    folder = config.run_folder
    folder.mkdir()
    every = config.training.log_every_steps
    arguments = f'["{folder}/metrics.jsonl", {step_s}, {num_steps}, {every}, {leak}]'
    return [sys.executable, "-c", RUN, arguments]


def test_held_processes_do_nothing_and_ended_ones_are_gone(tmp_path):
    config = run_config("run", tmp_path, tmp_path / "store", "training.log_every_steps=1")
    with Command(stand_in(config, 0.005), tmp_path / "log") as run:
        run.wait_until(lambda: len(windows(config)) > 5, "steps")
        run.hold()
        held = len(windows(config))
        time.sleep(0.1)
        assert len(windows(config)) in (held, held + 1)  # one was being written
        run.resume()
        run.wait_until(lambda: len(windows(config)) > held + 5, "steps")
        (process,) = run.processes()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    # The pause is in one step only.
    assert np.median([window.step_s for window in windows(config)]) < 0.02
    assert max(window.step_s for window in windows(config)) > 0.1


def test_a_command_that_ends_early_says_what_it_printed(tmp_path):
    with (
        Command([sys.executable, "-c", "exit('no such store')"], tmp_path / "log") as command,
        pytest.raises(RuntimeError, match=r"no steps:\nno such store"),
    ):
        command.wait_until(lambda: False, "steps")


def test_groups_take_turns_and_their_steps_are_compared(tmp_path, monkeypatch):
    def command(config, torchrun):
        return stand_in(config, 0.01 if torchrun else 0.03)

    monkeypatch.setattr(ray_train, "train_command", command)
    monkeypatch.setattr(ray_train, "small_store", lambda path, crop_size: path)
    monkeypatch.setattr(ray_train, "TURN_S", 0.5)
    monkeypatch.setattr(ray_train, "WARM_UP_STEPS", 10)
    step, noise, quick, _, cpu, _ = ray_train.run(QUICK, tmp_path)
    # Two examples a step were promised, and one is made: steps seem to take twice as long.
    assert min(step.values) >= 60
    assert min(step.reference) >= 20
    # However busy the machine is, steps three times as long differ more than equal ones.
    assert min(step.ratios) > max(noise.ratios)
    assert step.met is False
    assert min(quick.ratios) > max(noise.ratios)
    assert len(cpu.values) == len(cpu.reference) == 2
    assert max(cpu.values) < min(step.values)


# Weak scaling.


def test_scaling_compares_groups_of_a_round(tmp_path, monkeypatch):
    def run_group(num_ranks, *_):
        return {
            STEP: [0.1 * num_ranks, 0.1 * num_ranks, 9.0],
            APART: [0.1],
            COLLECTIVES: [0.05],
            PROFILED: [0.5],
            PACKED: [0.001],
            ONE_BY_ONE: [0.01],
        }

    monkeypatch.setattr(scaling, "run_group", run_group)
    monkeypatch.setattr(scaling, "small_store", lambda path: path)
    alone, beside_one, beside_apart, collectives, packed = scaling.run(QUICK, tmp_path)
    assert alone.values == pytest.approx([100, 100])
    assert beside_one.ratios == pytest.approx([2, 2])
    assert beside_apart.ratios == pytest.approx([2, 2])
    assert collectives.ratios == pytest.approx([0.1, 0.1])
    assert packed.ratios == pytest.approx([0.1, 0.1])


def test_ranks_time_the_real_loop(small_store, tmp_path):
    samples = time_loop(Task(str(small_store), str(tmp_path), 4), "run", WorkerContext())
    assert len(samples[STEP]) == 4
    assert min(samples[STEP]) > 0
    assert samples[PROFILED][0] > 0.5 * min(samples[STEP])
    assert samples[COLLECTIVES] == [0]  # alone
    assert all(seconds > 0 for seconds in time_reads(small_store))


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_collectives_are_known_by_their_names(process_group):
    clock = Clock(batch_size=1, num_steps=1)
    for step in range(1, 20):
        dist.all_reduce(torch.zeros(2**20))
        clock.scalars(step, {"train/examples_per_s": 1.0})
    assert 0 < clock.samples[COLLECTIVES][0] < clock.samples[PROFILED][0]


def test_every_kind_of_exchange_is_timed(process_group, monkeypatch):
    monkeypatch.setattr(scaling_rank, "build_network", lambda _: build_network("compact"))
    samples = scaling_rank.time_paper_gradients(WorkerContext(rank=0, world_size=2))
    assert samples.keys() == {"paper, no exchange", "paper, float32", "paper, bf16"}
    samples = scaling_rank.time_all_reduces([4096])
    assert len(samples["all-reduce 4096"]) == 20
    samples = scaling_rank.time_statistics()
    assert len(samples[PACKED]) == len(samples[ONE_BY_ONE]) == 20


def test_what_overlaps_is_counted_once():
    assert covered([(4.0, 5.0), (0.0, 2.0), (1.0, 3.0), (1.0, 2.0)]) == 4
    assert covered([]) == 0


# Memory.

PARENT = """
import subprocess, sys
held = bytearray(60 * 2**20)
child = "import time; held = bytearray(30 * 2**20); time.sleep(1.5)"
subprocess.run([sys.executable, "-c", child, "ray::RayTrainWorker"], check=True)
"""


def test_peaks_are_of_each_role_and_of_all(tmp_path):
    with Command([sys.executable, "-c", PARENT], tmp_path / "log") as command:
        peaks = memory.peak_memory(command, "a parent and a child")
    driver, worker, together = (peaks[name] for name in ("driver", "training worker", "all"))
    assert 60 < driver.rss < 100
    assert 30 < worker.rss < 60
    assert driver.number == worker.number == 1
    assert worker.pss <= worker.rss
    assert together.pss == pytest.approx(driver.pss + worker.pss, rel=0.1)
    names = [row.what for row in memory._rows("x", peaks, "a note")]
    assert names == ["x: driver", "x: training worker", "x: all processes"]


def test_a_command_that_fails_has_no_peaks(tmp_path):
    with (
        Command([sys.executable, "-c", "exit('out of memory')"], tmp_path / "log") as command,
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        memory.peak_memory(command, "a failure")


@pytest.mark.parametrize(("leak", "met"), [(0, True), (10_000, False)])
def test_growth_is_seen(tmp_path, monkeypatch, leak, met):
    def command(config):
        return stand_in(config, 0.003, config.training.steps, leak)

    monkeypatch.setattr(memory, "train_command", command)
    monkeypatch.setattr(memory, "small_store", lambda path, crop_size: path)
    (found,) = memory._growth(tmp_path, 100, 400)
    assert found.met is met


# Tracking.


def test_tracking_is_compared_with_none(tmp_path, monkeypatch):
    @contextmanager
    def server(folder):
        yield None, "http://server"

    def tracked_run(name, folder, store, uri, num_steps):
        wall = 10.0 if uri is None else 11.0
        return tracking.Cost(wall, wall, 0.1)

    monkeypatch.setattr(tracking, "mlflow_server", server)
    monkeypatch.setattr(tracking, "tracked_run", tracked_run)
    monkeypatch.setattr(tracking, "small_store", lambda path: path)
    found = {row.what: row for row in tracking.run(QUICK, tmp_path)}
    assert found["step, no tracking again"].ratios == [1, 1]
    assert found["step, server down"].ratios == [1.1, 1.1]
    assert found["training waits for the recorder, SQLite"].ratios == pytest.approx([0.1 / 11] * 2)


def test_clock_leaves_start_and_end_out():
    recorder = SimpleNamespace(scalars=lambda *_: time.sleep(0.01))
    clock = tracking.Clock(recorder, num_steps=40)
    for step in (10, 20, 30, 40, 40):
        clock.scalars(step, {})
        time.sleep(0.02)
    cost = clock.cost()
    # Two pauses and two calls between the 20th and the 40th step.
    assert 0.06 <= 20e-3 * cost.wall < 0.2
    assert 0.02 <= 20e-3 * cost.recorder < 20e-3 * cost.wall
    assert cost.cpu < cost.wall
