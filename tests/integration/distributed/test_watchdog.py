"""A stuck worker is ended, and named by the others; one that goes on is left alone."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import workers

from stem_complete.distributed import Watchdog, WorkerContext, is_collective_error
from stem_complete.distributed.watchdog import EXIT_CODE
from stem_complete.errors import CollectiveError

HOST = re.escape(socket.gethostname())
TIMEOUT_S = 3


def test_a_stopped_worker_is_named_by_all_others(group):
    ended = group("watchdog_steps", 3, "stop", 1, TIMEOUT_S, stuck=[1])
    for rank in (0, 2):
        assert ended[rank].exit_code == EXIT_CODE
        (line,) = [line for line in ended[rank].errors.splitlines() if "expected" in line]
        assert line.startswith(f"rank {rank} on {socket.gethostname()}, step 5 (reduce): expected")
        assert re.search(rf"\[rank 1 on {HOST}: step [45] \(\w+\), last heartbeat \d+ s ago", line)
        assert re.search(r"watchdog_steps\.py", ended[rank].errors)  # the stacks
        (trace,) = re.findall(r"trace of its collectives: (.*)", ended[rank].errors)
        assert b"gloo:all_reduce" in Path(trace).read_bytes()


def test_a_stopped_worker_is_named_though_it_keeps_the_store(group):
    _, other = group("watchdog_steps", 2, "stop", 0, TIMEOUT_S, stuck=[0])
    assert other.exit_code == EXIT_CODE
    assert re.search(rf"\[rank 0 on {HOST}: step [45] \(\w+\), last heartbeat", other.errors)


def test_a_worker_stuck_in_python_ends_itself_and_is_named_by_the_other(group):
    other, stuck = group("watchdog_steps", 2, "sleep", 1, TIMEOUT_S)
    assert stuck.exit_code == EXIT_CODE
    assert re.search(
        rf"rank 1 on {HOST}, step 5 \(data\): expected .* none after 3 s", stuck.errors
    )
    assert other.exit_code != 0
    assert re.search(rf"\[rank 1 on {HOST}: step 5 \(data\), ", other.errors)


@pytest.mark.parametrize(
    ("disturbance", "word"),
    [
        ("kill", r"step \d \(\w+\), last heartbeat \d+ s ago"),
        ("raise", r"step 5 \(data\), ended by OSError: disk gone"),
    ],
)
def test_the_others_error_says_who_ended_and_why(group, disturbance, word):
    other, ended = group("watchdog_steps", 2, disturbance, 1, 60)
    assert ended.exit_code == (-signal.SIGKILL if disturbance == "kill" else 1)
    assert other.exit_code == 1
    last = other.errors.strip().splitlines()[-1]
    assert re.search(
        rf"CollectiveError: rank 0 on {HOST}, step 5 \(reduce\): .*\[rank 1 on {HOST}: {word}", last
    )


def test_workers_that_finish_are_left_alone(torchrun):
    torchrun("watchdog_steps", 2, "none", 0, 2)


ALONE = """
import multiprocessing, time
from stem_complete.distributed import Watchdog, WorkerContext
reader = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
reader.start()
with Watchdog(WorkerContext(), {timeout_s}) as watchdog:
    watchdog.beat(3, "data"{more})
    print("started", flush=True)
    time.sleep({sleep_s})
"""


def start_alone(**values) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", ALONE.format(**values)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    return process


def test_a_stuck_process_alone_ends_with_its_readers():
    with start_alone(timeout_s=0.5, sleep_s=600, more="") as process:
        # Returns when nobody writes to these pipes any more: neither the process nor its reader.
        _, errors = process.communicate()
    assert process.returncode == EXIT_CODE
    assert re.match(rf"rank 0 on {HOST}, step 3 \(data\): expected .* none after", errors)
    assert "<string>" in errors  # the stacks
    assert "[" not in errors.splitlines()[0]


def test_a_process_that_was_stopped_and_goes_on_is_left_alone():
    with start_alone(timeout_s=2, sleep_s=1.5, more="") as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(process.pid, signal.SIGCONT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")


def test_a_phase_may_be_allowed_more_time():
    with start_alone(timeout_s=0.5, sleep_s=1.5, more=", allow_s=60") as process:
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")


def test_a_beat_during_the_last_words_saves_the_process(monkeypatch):
    exits, said = [], threading.Event()
    monkeypatch.setattr(os, "_exit", exits.append)
    with Watchdog(WorkerContext(), 0.2) as watchdog:
        build = watchdog._error

        def slow(*arguments):
            watchdog.beat(8, "data", allow_s=60)
            said.set()
            return build(*arguments)

        monkeypatch.setattr(watchdog, "_error", slow)
        assert said.wait()
        time.sleep(0.3)
    assert exits == []


def test_threads_end_with_the_block():
    with Watchdog(WorkerContext(), 60):
        pass
    for thread in threading.enumerate():
        if thread.name == "watchdog":
            thread.join()
            assert not thread.is_alive()


def test_only_the_others_errors_are_explained():
    gloo = RuntimeError("[/x/gloo/pair.cc:537] Read error [::1]:5: Connection reset. It is ...\nx")
    line = r"step 0 \(start\): .* found Read error \[::1\]:5: Connection reset; "
    with pytest.raises(CollectiveError, match=line), Watchdog(WorkerContext(), 60):
        raise gloo
    with pytest.raises(KeyError), Watchdog(WorkerContext(), 60):
        raise KeyError
    assert is_collective_error(torch.distributed.DistBackendError("NCCL error"))
    assert not is_collective_error(torch.OutOfMemoryError("CUDA out of memory, said NCCL"))
    assert not is_collective_error(RuntimeError("shape '[2]' is invalid"))


def test_nobody_waits_for_a_store_that_is_gone(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(workers.free_port()))
    with (
        pytest.raises(CollectiveError, match="heartbeats of others cannot be read"),
        Watchdog(WorkerContext(0, 2), 1),
    ):
        raise torch.distributed.DistBackendError("NCCL error: remote process exited")
