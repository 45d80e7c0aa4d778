"""Benchmarks of stores and loading run, and measure the work they name."""

import os
import sys

import numpy as np
import pytest

from stem_complete.benchmarks import ingest, pipeline, store_reading
from stem_complete.benchmarks.measure import Effort

EFFORT = Effort(rounds=2, quick=True)
TIMES = EFFORT.rounds + 1  # with the warm-up


def measured(benchmark, folder):
    """Comparisons, of which those with values must be whole."""
    found = list(benchmark.run(EFFORT, folder))
    for comparison in found:
        if not comparison.values:
            assert comparison.note
            continue
        values = np.array([comparison.values, comparison.reference])
        assert values.shape == (2, EFFORT.rounds)
        assert np.isfinite(values).all()
        assert (values > 0).all()
    return [comparison for comparison in found if comparison.values]


def test_reading_reads_as_many_bytes_as_pread(tmp_path, monkeypatch):
    monkeypatch.setattr(store_reading, "COMPRESSIONS", ("lz4",))
    crops, reads = [], []
    store_read, pread = store_reading.MicrographStore.read, os.pread

    def counted_read(self, indices):
        images = store_read(self, indices)
        crops.append(images.shape)
        return images

    def counted_pread(*arguments):
        data = pread(*arguments)
        reads.append(len(data))
        return data

    monkeypatch.setattr(store_reading.MicrographStore, "read", counted_read)
    monkeypatch.setattr(os, "pread", counted_pread)
    cores = os.sched_getaffinity(0)
    found = measured(store_reading, tmp_path)

    assert crops.count((4, 512, 512)) == 2 * 2 * TIMES  # random and in turn, warm and cold
    assert sum(reads) == 2 * TIMES * 4 * 512 * 512 * 2
    assert os.sched_getaffinity(0) == cores
    peers = {(c.what, c.against) for c in found if c.goal}
    assert {(f"random crops, lz4, {cache}", "zarr-python") for cache in ("warm", "cold")} <= peers


def test_a_peer_that_is_not_installed_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(store_reading, "COMPRESSIONS", ("none",))
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    found = list(store_reading.run(Effort(rounds=1, quick=True), tmp_path))
    missing = [comparison for comparison in found if not comparison.values]
    assert [comparison.note for comparison in missing] == 2 * ["tensorstore is not installed"]


def in_memory(file):
    with file.open("rb") as opened:
        try:
            return os.preadv(opened.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


def test_what_is_dropped_is_known(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("ours", "theirs")]
    for file in files:
        file.write_bytes(bytes(2**20))
        ingest.sync(file)
    try:
        assert all(map(in_memory, files))
    except OSError:
        pytest.skip("this file system does not say what is in memory")
    with files[1].open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    can_drop = not in_memory(files[1])

    with monkeypatch.context() as patch:
        patch.setattr(store_reading, "drop", lambda _: None)
        assert not store_reading.forget(files[:1])
    assert store_reading.forget(files[:1]) == can_drop


def test_ingest_stores_all_that_is_written(tmp_path, monkeypatch):
    reports = []

    def noted(*arguments, **options):
        reports.append(ingest_files(*arguments, **options))
        return reports[-1]

    ingest_files = ingest.ingest
    monkeypatch.setattr(ingest, "ingest", noted)
    found = measured(ingest, tmp_path)

    assert [bool(comparison.goal) for comparison in found] == [True, False, False]
    assert [report.num_added for report in reports] == len(found) * TIMES * [16]
    assert (tmp_path / "plain").stat().st_size == 16 * 512 * 512 * 2


def test_pipeline_loads_every_crop_that_it_counts(tmp_path, monkeypatch):
    loaded = {}

    def counted(*arguments, num_processes, **options):
        for batch in training_batches(*arguments, num_processes=num_processes, **options):
            if options["batch_size"] > 1:  # on a GPU
                yield batch
                continue
            assert batch.images.shape == (1, 1, 512, 512)
            loaded[num_processes] = loaded.get(num_processes, 0) + 1
            yield batch

    training_batches = pipeline.training_batches
    monkeypatch.setattr(pipeline, "training_batches", counted)
    found = measured(pipeline, tmp_path)

    assert [comparison.what for comparison in found][:2] == [
        f"loader, num_processes={number}" for number in (0, 1)
    ]
    assert loaded == dict.fromkeys((0, 1), TIMES * pipeline.QUICK_CROPS)
