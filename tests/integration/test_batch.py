"""Batches of completions on a real Ray cluster, and on an object store.

`scripts/chaos_batch` is the long form of the kills.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from faults import LocalCluster
from faults.batch import Batch, digests, disturb, write_scans, wrong

pytestmark = [
    pytest.mark.ray,
    # Ray's own: sockets and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]

NUM_SCANS, SIDE_PX, NUM_UNITS = 80, 64, 40
HANG_S = 60  # first units load libraries, on a busy machine


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans") / "scans.zarr", NUM_SCANS, SIDE_PX)


@pytest.fixture(scope="module")
def undisturbed(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same batch in one process, without Ray."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with Batch(scans, output, None, "--format", "zarr", "--error-map") as batch:
        assert batch.run() == 0, batch.log.read_text()
    return output


def test_no_kill_costs_a_scan_or_changes_a_byte(
    scans: Path, undisturbed: Path, local_cluster: LocalCluster, tmp_path: Path
) -> None:
    options = ("--format", "zarr", "--error-map", "--timeout", str(HANG_S), "--json")
    with Batch(scans, tmp_path / "out", local_cluster.address, *options) as batch:
        faults = [(5, "driver"), (6, "worker"), (7, "hang")]
        assert disturb(batch, local_cluster, faults, NUM_UNITS, random.Random(0)) >= 1
        assert wrong(batch, undisturbed) == []
        assert len(set(batch.units())) == NUM_UNITS
        told = [json.loads(line) for line in batch.log.read_text().splitlines() if line[0] == "{"]
        assert told[-1]["failed"] == {}
        assert len(told[-1]["done"]) + len(told[-1]["skipped"]) == NUM_SCANS
    assert digests(undisturbed)
