"""One batch through many kills at random moments: is anything lost, twice, or another?

    scripts/chaos_batch [--kills N] [--minutes N] [--scans N] [--format zarr|tiff|npy] [--seed N]

Workers, the driver and whole nodes are killed on a real Ray cluster of two nodes, and what was lost
is started again. In the end each unit is in the manifest once, and every byte is that of the same
batch undisturbed, in one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import zarr
from strategies import micrograph
from waiting import wait_until

from faults.nodes import ENVIRONMENT, LocalCluster, kill_tree
from stem_complete.scan import archimedean
from stem_complete.storage.manifest import FOLDER

SIDE_PX = 128
IN_SHARD = 2


def write_scans(path: Path, num: int, side_px: int = SIDE_PX) -> Path:
    """A zarr array of so many noisy spiral scans of textures."""
    dwell = archimedean((side_px, side_px), "1/10").dwell_map().numpy()
    scans = np.stack(
        [
            np.where(dwell > 0, micrograph("texture", seed, dwell.shape), np.nan)
            for seed in range(num)
        ]
    )
    zarr.create_array(path, data=scans.astype(np.float32), chunks=(1, *dwell.shape))
    return path


def digests(output: Path) -> dict[str, str]:
    """Hash of every file that is not hidden."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and FOLDER not in path.parts
    }


class Batch:
    """`python -m stem_complete complete ...` in a process of its own.

    Args:
        scans: Array of scans.
        output: Destination.
        address: Of the Ray cluster; None completes in that process.
        options: More of the command.
    """

    def __init__(self, scans: Path, output: Path, address: str | None, *options: str) -> None:
        self.output, self.log = output, output.with_name(f"{output.name}.log")
        command = [sys.executable, "-m", "stem_complete", "complete", str(scans)]
        command += ["--output", str(output), "--shard", str(IN_SHARD), *options]
        if address is not None:
            command += ["--address", address, "--workers", "2"]
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            kill_tree(psutil.Process(self.process.pid))
            self.process.wait()

    def start(self) -> None:
        """Starts the driver; also again, after it was lost."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT}
            )

    def run(self) -> int:
        """Starts it and waits for its end; returns its exit code."""
        self.start()
        return self.wait()

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        assert self.process is not None
        return self.process.wait()

    def units(self) -> list[str]:
        """Units that the manifest has, in order."""
        file = self.output / FOLDER / "manifest.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [json.loads(line)["unit"] for line in lines]

    def wait_for_units(self, num: int) -> bool:
        """Waits until so many units are done; False if the batch ended before."""

        def there() -> str:
            if len(self.units()) >= num:
                return "done"
            return "ended" if self.has_ended() else ""

        return wait_until(there, f"{num} units") == "done"

    def has_ended(self) -> bool:
        """Whether there is no driver any more."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """Ends the driver as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def kill_worker(batch: Batch, cluster: LocalCluster, chance: random.Random) -> None:
    """Kills one of the workers, once there is one."""
    if found := _workers(batch, cluster):
        chance.choice(found).kill()


def kill_workers(batch: Batch, cluster: LocalCluster, chance: random.Random) -> None:
    """Kills all workers, once there is one."""
    for worker in _workers(batch, cluster):
        worker.kill()


def _workers(batch: Batch, cluster: LocalCluster) -> list[psutil.Process]:
    """Workers, at least one; none if the batch ended."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = cluster.workers(title="RayWorker")
        return bool(found) or batch.has_ended()

    wait_until(there, "a worker")
    return found


def hang_worker(batch: Batch, cluster: LocalCluster, chance: random.Random) -> None:
    """Stops one of the workers for good: only a limit on its time can help."""
    if found := _workers(batch, cluster):
        chance.choice(found).suspend()


def kill_driver(batch: Batch, cluster: LocalCluster, chance: random.Random) -> None:
    """Kills the driver and starts the command again."""
    batch.kill()
    batch.start()


def kill_node(batch: Batch, cluster: LocalCluster, chance: random.Random) -> None:
    """Kills a node, raylet and all, and adds another."""
    cluster.kill_node(chance.choice(cluster.nodes))
    cluster.add_node()


KILLS: dict[str, Callable[[Batch, LocalCluster, random.Random], None]] = {
    "worker": kill_worker,
    "workers": kill_workers,
    "driver": kill_driver,
    "node": kill_node,
}
FAULTS = {**KILLS, "hang": hang_worker}


def disturb(
    batch: Batch,
    cluster: LocalCluster,
    faults: Sequence[tuple[int, str]],
    num_units: int,
    chance: random.Random,
    minutes: float = math.inf,
) -> int:
    """Runs a batch to its end through faults; returns how many took place.

    Args:
        batch: The batch.
        cluster: Where it runs.
        faults: How many units are done before each, and its name.
        num_units: Units of the batch.
        chance: Of moments and victims.
        minutes: After which there are no more.
    """
    batch.start()
    num, last_s = 0, time.monotonic() + 60 * minutes
    for place, fault in faults:
        if not batch.wait_for_units(place) or time.monotonic() > last_s:
            break
        print(f"{len(batch.units())}/{num_units} units: {fault}", flush=True)
        time.sleep(0.3 * chance.random())  # into reading, completing, writing or telling
        FAULTS[fault](batch, cluster, chance)
        num += 1
    while batch.wait() != 0:  # what is killed may have taken the driver with it
        if len(set(batch.units())) == num_units:
            break
        batch.start()
    return num


def wrong(batch: Batch, undisturbed: Path) -> list[str]:
    """Units that the manifest has twice, and files that differ."""
    twice = [unit for unit, num in Counter(batch.units()).items() if num > 1]
    own, others = digests(batch.output), digests(undisturbed)
    return twice + [
        name for name in own.keys() | others.keys() if own.get(name) != others.get(name)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=math.inf, help="no more kills then")
    parser.add_argument("--scans", type=int, default=1200)
    parser.add_argument("--side", type=int, default=SIDE_PX, help="of each scan [px]")
    parser.add_argument("--format", default="zarr", choices=("zarr", "tiff", "npy"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up
    chance = random.Random(options.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = write_scans(folder / "scans.zarr", options.scans, options.side)
        undisturbed = folder / "undisturbed"
        with Batch(scans, undisturbed, None, "--format", options.format) as alone:
            if alone.run():
                sys.exit(alone.log.read_text()[-3000:])
        num_units = len(alone.units())
        kinds = chance.choices(list(KILLS), weights=(3, 4, 2, 1), k=options.kills)
        with (
            LocalCluster(2) as cluster,
            Batch(scans, folder / "out", cluster.address, "--format", options.format) as batch,
        ):
            places = sorted(chance.sample(range(num_units), len(kinds)))
            faults = list(zip(places, kinds, strict=True))
            num = disturb(batch, cluster, faults, num_units, chance, options.minutes)
        found = wrong(batch, undisturbed)
        if found:
            sys.exit(f"error: {len(found)} wrong: {found[:9]}\n{batch.log.read_text()[-3000:]}")
    told = ", ".join(f"{number} {kind}" for kind, number in Counter(kinds[:num]).items())
    print(
        f"{num} kills ({told}) over {num_units} units in {time.monotonic() - started:.0f} s: each "
        "unit is there once, and every byte is that of the batch undisturbed."
    )


if __name__ == "__main__":
    main()
