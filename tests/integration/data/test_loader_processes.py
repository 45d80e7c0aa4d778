"""Processes that read ahead: the same batches, clear errors, and an end with the one that asks."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from waiting import wait_until

from stem_complete.data.loader import training_batches
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import DataError, StoreError


def batches(store, steps=99, **changes):
    options = {"seed": 3, "batch_size": 4, "micro_batch_size": 2, "num_processes": 2}
    return training_batches(MicrographStore(store), steps=range(steps), **(options | changes))


def test_processes_give_the_same_batches(small_store):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    here, elsewhere = list(batches(small_store, 5, num_processes=0)), list(batches(small_store, 5))
    assert len(here) == len(elsewhere) == 10
    for one, other in zip(here, elsewhere, strict=True):
        assert type(one) is type(other)
        assert one.steps is other.steps is None
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_told_of_where_its_batch_is_asked_for(small_store):
    loaded = batches(small_store, num_processes=1)
    next(loaded)
    handler = signal.getsignal(signal.SIGCHLD)
    [process] = multiprocessing.active_children()
    process.kill()
    process.join()
    with pytest.raises(DataError, match=r"exited unexpectedly; .*use fewer data.loader_workers"):
        list(loaded)
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert not multiprocessing.active_children()


def test_damage_is_told_as_where_the_process_that_asks_reads(small_store, tmp_path):
    path = shutil.copytree(small_store, tmp_path / "s.zarr")
    shutil.rmtree(path / "images" / "c")
    with pytest.raises(StoreError, match=r"found crop \d+ that cannot be read") as error:
        next(batches(path, num_processes=1))
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


def test_loading_that_is_given_up_leaves_no_processes(small_store):
    loaded = batches(small_store, num_processes=1)
    next(loaded)
    assert len(multiprocessing.active_children()) == 1
    loaded.close()
    assert not multiprocessing.active_children()


ENDED = """
import multiprocessing, os, sys
from stem_complete.data.loader import training_batches
from stem_complete.data.store.store import MicrographStore

if __name__ == "__main__":
    next(loaded := training_batches(MicrographStore(sys.argv[1]), steps=range(99), seed=0,
                                    batch_size=1, micro_batch_size=1, num_processes=1))
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_processes_end_with_the_one_that_asks(small_store, tmp_path):
    script = tmp_path / "ended.py"
    script.write_text(ENDED)
    done = subprocess.run([sys.executable, script, small_store], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    status = Path(f"/proc/{int(done.stdout)}/status")
    wait_until(
        lambda: not status.exists() or "(zombie)" in status.read_text(), "the process to end"
    )
