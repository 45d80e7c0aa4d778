"""Micro-batches are what the sampler says, whoever reads them."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from stem_complete.data.loader import training_batches
from stem_complete.data.read_ahead import read_ahead
from stem_complete.data.sampler import global_batch
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import DataError, StoreError

BATCH = {"seed": 3, "batch_size": 4}


def load(store, steps, **changes):
    return list(
        training_batches(
            MicrographStore.open(store), steps=steps, **BATCH, **({"micro_batch_size": 2} | changes)
        )
    )


def test_batches_hold_what_the_sampler_says(small_store):
    store = MicrographStore.open(small_store)
    train = store.indices("train")
    batches = load(small_store, range(3))
    assert len(batches) == 6
    for number, batch in enumerate(batches):
        step, part = divmod(number, 2)
        assert batch.positions.tolist() == [2 * part, 2 * part + 1]
        expected = train[global_batch(len(train), 3, step, 4)][batch.positions.numpy()]
        assert np.array_equal(batch.crops.numpy(), expected)
        np.testing.assert_array_equal(batch.images[:, 0].numpy(), store.read(expected))
        assert batch.images.dtype == torch.float32


def test_a_resumed_loader_goes_on_where_it_stopped(small_store):
    whole, rest = load(small_store, range(5)), load(small_store, range(3, 5))
    for one, other in zip(whole[6:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_share_the_batch(small_store, world_size):
    whole = load(small_store, range(2), micro_batch_size=4)
    parts = [
        load(small_store, range(2), micro_batch_size=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    share = 4 // world_size
    for step in range(2):
        crops = [b.crops for rank in parts for b in rank[step * share : (step + 1) * share]]
        assert torch.equal(torch.cat(crops), whole[step].crops)


def test_processes_give_the_same_batches(small_store):
    here, elsewhere = load(small_store, range(5)), load(small_store, range(5), num_processes=2)
    assert len(here) == len(elsewhere)
    for one, other in zip(here, elsewhere, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_processes_tell_of_damage_and_of_their_end(small_store, tmp_path):
    store = MicrographStore.open(shutil.copytree(small_store, tmp_path / "s.zarr"))
    requests = [np.array([0]), np.array([len(store) - 1])] * 20  # more than are read ahead
    crops = read_ahead(store, requests, num_processes=1, request_size=1)
    np.testing.assert_array_equal(next(crops), store.read([0]))
    [process] = multiprocessing.active_children()
    process.kill()
    with pytest.raises(DataError, match=r"exit code -9; .*use fewer data.loader_workers"):
        list(crops)

    shutil.rmtree(store.path / "images" / "c")
    with pytest.raises(StoreError, match=r"expected .* found crop 0 that cannot be read"):
        next(read_ahead(MicrographStore(store.path), requests, num_processes=1, request_size=1))
    assert not multiprocessing.active_children()


ENDED = """
import multiprocessing, os, sys
from stem_complete.data.read_ahead import read_ahead
from stem_complete.data.store.store import MicrographStore

if __name__ == "__main__":
    next(crops := read_ahead(MicrographStore(sys.argv[1]), 99 * [[0]], 1, 1))
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_processes_end_with_the_one_that_asks(small_store, tmp_path):
    script = tmp_path / "ended.py"
    script.write_text(ENDED)
    done = subprocess.run(
        [sys.executable, script, small_store], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    for _ in range(100):
        if (
            not Path(f"/proc/{pid}").exists()
            or "(zombie)" in Path(f"/proc/{pid}/status").read_text()
        ):
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} still runs")
