"""Killed or two at once: the store stays whole, and a re-run completes it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stem_complete.data.store import layout
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import BusyError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images: nine crops of 16 each."""
    (tmp_path / "images").mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 4000, (48, 48)).astype(np.uint16)
        np.save(tmp_path / "images" / f"image{number:03}.npy", image)
    return tmp_path / "images"


# Runs ingest in forks that die half-way through the k-th file of the store: every file, of zarr and
# of ours, is written beside its place and then put there. The forks are made before zarr starts its
# threads.
KILLED = """
import os, signal, sys
from pathlib import Path
from stem_complete.data.store import layout
from stem_complete.data.store.ingest import ingest

layout._MAX_SHARD_CROPS = 4
replace, count = Path.replace, 0

def replace_or_die(draft, place):
    global count
    count += 1
    if count == last:
        os.truncate(draft, draft.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(draft, place)

images, stores = sys.argv[1], sys.argv[2:]
for store in stores:
    last = int(Path(store).suffix[1:])
    if not os.fork():
        Path.replace = replace_or_die
        ingest([images], store, crop_size=16)
        os._exit(0)
    print(os.wait()[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_anywhere_the_store_stays_whole_and_a_rerun_completes_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_MAX_SHARD_CROPS", 4)
    ingest([folder], tmp_path / "reference", crop_size=16)
    reference = MicrographStore(tmp_path / "reference").fingerprint()
    kills = [5, 1, 20, 27, 28, 29, 41, 55, 110, 131, 10_000]
    stores = [tmp_path / f"killed.{kill}" for kill in kills]
    for store in stores[1:]:  # the first dies while the store is created
        ingest([folder / "image000.npy"], store, crop_size=16)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *map(str, stores)],
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = [int(line) for line in done.stdout.split()]
    assert statuses[:-1] == [signal.SIGKILL] * (len(kills) - 1)
    assert statuses[-1] == 0  # not so many files are written
    held = []
    for store in stores[1:]:
        MicrographStore(store).read(range(len(MicrographStore(store))))
        held.append(len(MicrographStore(store)))
        assert held[-1] % 9 == 0  # whole files only
    assert held[0] == 9
    assert held == sorted(held)
    assert held[-1] == 54
    for store in stores:
        report = ingest([folder], store, crop_size=16)
        assert report.num_added + len(report.already_there) * 9 == 54
        assert MicrographStore(store).fingerprint() == reference
        MicrographStore(store).read(range(54))
    assert not list(tmp_path.glob("killed.*/**/*.partial"))


HOLDER = """
import sys
from stem_complete.data.store.writer import StoreWriter
with StoreWriter(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_one_writer_at_a_time_and_a_dead_one_is_taken_over_from(
    tmp_path: Path, folder: Path
) -> None:
    path = tmp_path / "s.zarr"
    ingest([folder / "image000.npy"], path, crop_size=16)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        who = f"process {holder.pid} on {socket.gethostname()}"
        with pytest.raises(BusyError, match=f"s.zarr: .* found it held by {who}; wait for"):
            ingest([folder], path)
        assert len(MicrographStore(path)) == 9  # readers do not mind
        holder.kill()
    assert (tmp_path / "s.zarr.lock").exists()
    assert ingest([folder], path).num_added == 45
    assert not (tmp_path / "s.zarr.lock").exists()
